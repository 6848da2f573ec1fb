//! Each store answers.

use super::Part;
use super::runner::{Found, PartRun, ensure};
use crate::DatabaseService;
use crate::health::{DatabaseHealth, DatabaseStatus};

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("connections");
    let health = platform.health().probe_now().await;
    let backends = platform.backends();
    let databases = &health.databases;
    for (store, backend, found) in [
        ("relational", backends.relational, &databases.postgresql),
        ("document", backends.documents, &databases.mongodb),
        ("key-value", backends.key_value, &databases.redis),
    ] {
        let name = format!("the {store} store answers ({backend})");
        part.check(&name, async { answers(backend, found) }).await;
    }
    part.done()
}

fn answers(backend: &str, found: &DatabaseHealth) -> Found {
    ensure(
        found.backend == backend,
        format!("health names {} in its place", found.backend),
    )?;
    let error = found.error.as_deref().unwrap_or("no reason was given");
    ensure(
        found.status == DatabaseStatus::Connected,
        format!("is {}: {error}", found.status),
    )
}
