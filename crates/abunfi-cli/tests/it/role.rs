//! The service as a role that owns nothing, as `docs/operations.md` makes it.

use abunfi_testkit::unique_name;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::stores::on_postgres;
use crate::support::Place;

const OPERATIONS: &str = include_str!("../../../../docs/operations.md");

async fn run(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await?;
    connection.close().await
}

/// The statements of the page, for `role`.
fn grants(role: &str) -> String {
    let (_, page) = OPERATIONS
        .split_once("## A role that cannot change the trail")
        .expect("the section");
    let (_, block) = page.split_once("```sql\n").expect("its statements");
    let (block, _) = block.split_once("```").expect("their end");
    assert!(block.contains("abunfi_service"));
    block.replace("abunfi_service", role)
}

/// The same place, for another role.
fn as_role(place: &mut Place, role: &str) -> String {
    let owner = place.variable("DATABASE_URL");
    let (scheme, rest) = owner.split_once("://").unwrap();
    let (_, address) = rest.split_once('@').unwrap_or(("", rest));
    let url = format!("{scheme}://{role}:a-secret@{address}");
    place
        .set("DATABASE_URL", &url)
        .set("MIGRATE_ON_START", "false");
    url
}

mod servers {
    use super::*;

    #[tokio::test]
    async fn a_role_that_owns_nothing_serves_and_cannot_change_the_trail() {
        let name = unique_name();
        let mut place = on_postgres(&name).await;
        let owner = place.variable("DATABASE_URL");
        assert_eq!(place.run(&["migrate"]).code, 0);
        let role = format!("{name}_role");
        run(
            &owner,
            &format!("CREATE ROLE {role} LOGIN PASSWORD 'a-secret'"),
        )
        .await
        .unwrap();
        run(&owner, &grants(&role)).await.unwrap();

        let url = as_role(&mut place, &role);
        place.set("AUDIT_SIGNING_KEY", "7".repeat(64));
        // All of the platform, rows of every sort, and what reads and proves them.
        let checked = place.run(&["check"]);
        assert_eq!(checked.code, 0, "{checked:?}");
        for arguments in [&["audit", "checkpoint"][..], &["verify"], &["accounts"]] {
            let ran = place.run(arguments);
            assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        }
        place.set("ABUNFI_ADMIN_KEY", "k".repeat(40));
        let (code, log) = place.serve().stop("TERM");
        assert_eq!(code, 0, "{log}");

        for (sql, refusal) in [
            ("UPDATE audit SET action = 'x'", "permission denied"),
            ("DELETE FROM entries", "permission denied"),
            ("UPDATE checkpoints SET number = 9", "permission denied"),
            ("DELETE FROM transactions", "permission denied"),
            ("TRUNCATE audit", "permission denied"),
            ("ALTER TABLE audit DISABLE TRIGGER ALL", "must be owner"),
            ("ALTER TABLE entries DISABLE TRIGGER ALL", "must be owner"),
            (
                "SET session_replication_role = replica",
                "permission denied",
            ),
            (
                "UPDATE _sqlx_migrations SET version = 1",
                "permission denied",
            ),
        ] {
            let error = run(&url, sql).await.expect_err(sql).to_string();
            assert!(error.contains(refusal), "{sql}: {error}");
        }
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        run(&owner, &drop).await.unwrap();
    }
}
