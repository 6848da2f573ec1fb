//! What the schemas promise, asked of the catalogues themselves; and how a schema comes to be.

use std::path::Path;

use crate::support::Relational;

mod durability;
mod on_postgres;
mod on_sqlite;
mod opening;
mod upgrading;

/// Rows that break a rule, each as a readable text; there must be none.
async fn none(stores: &Relational, rule: &str, sql: &str) {
    assert_eq!(stores.raw.texts(sql).await, Vec::<String>::new(), "{rule}");
}

/// All migrations of that adapter, oldest first.
fn migrations(adapter: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stores");
    let files = std::fs::read_dir(folder.join(adapter).join("migrations")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let texts = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap());
    texts.collect::<Vec<_>>().join("\n")
}
