//! Developers' data and logs where the relational store keeps them as well.

use super::{Records, records_tests};
use crate::support::{Backend, Relational, TOGETHER, run};

fn records(stores: &Relational) -> Records {
    Records {
        dev_data: stores.dev_data.clone(),
        logs: stores.logs.clone(),
        is_stand_in: false,
    }
}

macro_rules! on_postgres {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            run(Backend::Postgres, TOGETHER, async |stores| {
                super::super::$name(&super::records(stores)).await;
            });
        })+
    };
}

macro_rules! on_sqlite {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            run(Backend::Sqlite, TOGETHER, async |stores| {
                super::super::$name(&super::records(stores)).await;
            });
        })+
    };
}

mod postgres {
    use super::{Backend, TOGETHER, records_tests, run};
    records_tests!(on_postgres);
}

mod sqlite {
    use super::{Backend, TOGETHER, records_tests, run};
    records_tests!(on_sqlite);
}
