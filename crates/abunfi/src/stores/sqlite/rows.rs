//! Many rows in few statements.
//!
//! Values are bound, not read from a JSON parameter: for the wide rows of the ledger, taking JSON apart in
//! SQL was a fifth of what a posting costs.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

/// How many rows one statement takes, so that every number of rows is a few statements of the same few texts,
/// which stay prepared: at most a dozen for a batch of any size.
const SIZES: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// A value of a row.
#[derive(Debug)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&String> for Cell {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Uuid> for Cell {
    fn from(value: Uuid) -> Self {
        Self::Bytes(value.as_bytes().to_vec())
    }
}

impl From<[u8; 32]> for Cell {
    fn from(value: [u8; 32]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Runs `{head} VALUES (…), (…) {tail}` for all rows, in their order.
///
/// # Errors
/// The driver's error; rows before the failing statement are written then.
pub(super) async fn insert<const N: usize>(
    conn: &mut SqliteConnection,
    head: &str,
    tail: &str,
    rows: Vec<[Cell; N]>,
) -> Result<(), sqlx::Error> {
    let mut left = rows.len();
    let mut cells = rows.into_iter().flatten();
    for size in SIZES {
        while left >= size {
            let text = statement(head, tail, N, size);
            let mut query = sqlx::query(AssertSqlSafe(text));
            for cell in cells.by_ref().take(N.saturating_mul(size)) {
                query = match cell {
                    Cell::Null => query.bind(None::<i64>),
                    Cell::Integer(value) => query.bind(value),
                    Cell::Text(value) => query.bind(value),
                    Cell::Bytes(value) => query.bind(value),
                };
            }
            query.execute(&mut *conn).await?;
            left -= size;
        }
    }
    Ok(())
}

fn statement(head: &str, tail: &str, width: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; width].join(","));
    format!(
        "{head} VALUES {} {tail}",
        vec![row.as_str(); rows].join(",")
    )
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    #[tokio::test]
    async fn any_number_of_rows_is_written_in_order_and_as_given() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (n INTEGER, text TEXT, bytes BLOB, none TEXT) STRICT")
            .execute(&mut conn)
            .await
            .unwrap();
        for count in [0_i64, 1, 2, 3, 37, 255, 256, 300, 1_000] {
            let rows = (0..count)
                .map(|n| {
                    let text = format!("'{n}'");
                    [
                        n.into(),
                        text.into(),
                        [7; 32].into(),
                        Cell::from(None::<String>),
                    ]
                })
                .collect();
            insert(&mut conn, "INSERT INTO t (n, text, bytes, none)", "", rows)
                .await
                .unwrap();
            let (written, right): (i64, i64) = sqlx::query_as(
                "SELECT count(*), count(*) FILTER (WHERE n = rowid - 1 AND text = '''' || n || ''''
                     AND length(bytes) = 32 AND none IS NULL) FROM t",
            )
            .fetch_one(&mut conn)
            .await
            .unwrap();
            assert_eq!((written, right), (count, count));
            sqlx::raw_sql("DELETE FROM t")
                .execute(&mut conn)
                .await
                .unwrap();
        }
    }
}
