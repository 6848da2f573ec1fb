//! Users: the record with balances and heads in one query, and changes decided from the locked row.
//!
//! The user's row is locked `FOR NO KEY UPDATE`: that keeps other changes out, and the share lock by which
//! the ledger opens accounts, but not the references of those whom the user referred.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::columns::{Columns, amount, at, column, hash, limit};
use super::error::{Abort, undecodable};
use super::lane::scoped;
use super::{Postgres, audit, heads, outbox, sessions, user_exists};
use crate::audit::drafts;
use crate::cache::user_tag;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::canonical::canonical_json;
use crate::documents::{DocumentKind, Head};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::{Asset, Balance, Page, first_share_price};
use crate::stores::RelationalOptions;
use crate::users::rules::{self, Changed};
use crate::users::{
    Error, IdentityKind, IdentityQuery, Kyc, KycChange, KycStatus, NewUser, Referral, ReferralRow,
    SocialId, Store, UserChange, UserRecord, UserStatus,
};

/// Users with their balances and heads; `$users` is what gives the rows of `users`, aliased `u`.
macro_rules! select_users {
    ($users:literal) => {
        concat!(
            "SELECT u.*, r.referral_count, b.*, h.*
             FROM ",
            $users,
            "
             CROSS JOIN LATERAL (
                 SELECT count(*) AS referral_count FROM users WHERE referred_by = u.user_id
             ) AS r
             CROSS JOIN LATERAL (
                 SELECT array_agg(asset) AS assets, array_agg(available) AS available,
                     array_agg(locked) AS locked, array_agg(shares) AS shares,
                     array_agg(locked_shares) AS locked_shares, array_agg(share_price) AS share_price,
                     array_agg(total_yield_earned) AS total_yield_earned,
                     array_agg(last_yield_at) AS last_yield_at, array_agg(account_version) AS account_version
                 FROM (
                     SELECT a.*, a.version AS account_version, s.share_price
                     FROM accounts AS a JOIN assets AS s ON s.asset = a.asset
                     WHERE a.user_id = u.user_id ORDER BY a.asset
                 ) AS ordered
             ) AS b
             CROSS JOIN LATERAL (
                 SELECT array_agg(kind) AS kinds, array_agg(version) AS head_version,
                     array_agg(hash) AS head_hash, array_agg(deleted) AS head_deleted,
                     array_agg(applied_version) AS applied_version, array_agg(image) AS image,
                     array_agg(updated_at) AS head_updated_at
                 FROM document_heads AS d WHERE d.user_id = u.user_id
             ) AS h "
        )
    };
}

#[async_trait]
impl Store for Postgres {
    async fn create(&self, _ctx: &Context, user: &NewUser) -> Result<UserRecord, Error> {
        let options = self.options;
        self.requests
            .write(|connection| {
                scoped(async move {
                    let record = insert(connection, user, options).await?;
                    if options.outbox {
                        let users = [Some(user.id), record.referral.referred_by];
                        let tags = users.into_iter().flatten().map(user_tag).collect();
                        outbox::enqueue(connection, tags, user.at).await?;
                    }
                    Ok(record)
                })
            })
            .await
    }

    async fn find(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.requests
            .read(|connection| scoped(find(connection, id)))
            .await
    }

    async fn find_by_identity(&self, query: &IdentityQuery) -> Result<Option<UserId>, StoreError> {
        self.requests
            .read(|connection| scoped(find_by_identity(connection, query)))
            .await
    }

    async fn list(&self, page: &Page<(Timestamp, UserId)>) -> Result<Vec<UserRecord>, StoreError> {
        self.requests
            .read(|connection| scoped(list(connection, page)))
            .await
    }

    async fn update(
        &self,
        ctx: &Context,
        id: UserId,
        change: &UserChange,
        if_match: Option<i64>,
        _salt: [u8; 32],
        at: Timestamp,
    ) -> Result<UserRecord, Error> {
        let options = self.options;
        self.requests
            .write(|connection| {
                scoped(async move {
                    let user = lock(connection, id).await?;
                    match rules::change(&user, change, if_match, at)? {
                        None => Ok(user),
                        Some(changed) => apply(connection, ctx, &changed, options, at).await,
                    }
                })
            })
            .await
    }

    async fn set_kyc(
        &self,
        ctx: &Context,
        id: UserId,
        change: &KycChange,
        if_match: Option<i64>,
        at: Timestamp,
    ) -> Result<UserRecord, Error> {
        let options = self.options;
        self.requests
            .write(|connection| {
                scoped(async move {
                    let before = lock(connection, id).await?;
                    let after = rules::set_kyc(&before, change, if_match, at)?;
                    save(connection, &after).await?;
                    let draft = drafts::kyc_change(ctx, id, before.kyc.status, change, at);
                    audit::append(connection, draft).await?;
                    if options.outbox {
                        outbox::enqueue(connection, vec![user_tag(id)], at).await?;
                    }
                    Ok(after)
                })
            })
            .await
    }

    async fn referrals(
        &self,
        id: UserId,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Option<Vec<ReferralRow>>, StoreError> {
        self.requests
            .read(|connection| scoped(referrals(connection, id, page)))
            .await
    }
}

/// Makes a user inside an open transaction, in which some of it may be written when it is refused. The
/// outbox row is the caller's.
pub(super) async fn insert(
    connection: &mut PgConnection,
    user: &NewUser,
    options: RelationalOptions,
) -> Result<UserRecord, Abort<Error>> {
    let codes: Vec<String> = user.referral_codes.iter().map(|code| code.key()).collect();
    let found = sqlx::query(
        "SELECT
             (SELECT user_id FROM user_identities WHERE kind = 'referral_code' AND value = $1) AS referrer,
             (SELECT code FROM unnest($2::text[]) WITH ORDINALITY AS candidates (code, place)
              WHERE NOT EXISTS (
                  SELECT FROM user_identities WHERE kind = 'referral_code' AND value = code)
              ORDER BY place LIMIT 1) AS code,
             (SELECT epoch FROM document_epoch) AS epoch",
    )
    .bind(user.referred_by.map(|code| code.key()))
    .bind(codes)
    .fetch_one(&mut *connection)
    .await?;
    let referrer: Option<UserId> = found.optional_id("referrer")?;
    if user.referred_by.is_some() && referrer.is_none() {
        return Err(Error::UnknownReferralCode.into());
    }
    // All candidates are taken: as unlikely as it gets, and nothing that running again would mend.
    let code = found.text("code")?;

    insert_user(connection, user, referrer, &code).await?;
    let mut identities = rules::identities_of(user);
    identities.push((IdentityKind::ReferralCode, code));
    insert_identities(connection, user.id, &identities).await?;
    open_first_account(connection, user).await?;
    heads::insert_first(connection, user, found.integer("epoch")?, options).await?;
    find(connection, user.id)
        .await?
        .ok_or_else(|| undecodable("user_id", "the new user is not there").into())
}

async fn insert_user(
    connection: &mut PgConnection,
    user: &NewUser,
    referrer: Option<UserId>,
    code: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO users (user_id, email, name, wallet_address, phone, social_provider, social_id,
             referral_code, referred_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(user.id.0)
    .bind(user.email.as_str())
    .bind(user.name.as_str())
    .bind(user.wallet_address.as_ref().map(ToString::to_string))
    .bind(user.phone.as_ref().map(|phone| phone.as_str()))
    .bind(user.social.as_ref().map(|social| social.provider().as_str()))
    .bind(user.social.as_ref().map(SocialId::id))
    .bind(code)
    .bind(referrer.map(|referrer| referrer.0))
    .bind(at(user.at))
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes identities for a user, in the order of their kinds, so that two who want each other's do not wait
/// for one another. A statement that does nothing on conflict leaves the transaction intact and tells by
/// what it returns which ones were taken.
async fn insert_identities(
    connection: &mut PgConnection,
    id: UserId,
    identities: &[(IdentityKind, String)],
) -> Result<(), Abort<Error>> {
    let inserted: Vec<String> = sqlx::query_scalar(
        "INSERT INTO user_identities (kind, value, user_id)
         SELECT kind, value, $3
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (kind, value, place)
         ORDER BY place
         ON CONFLICT ON CONSTRAINT user_identities_pkey DO NOTHING
         RETURNING kind",
    )
    .bind(column(identities, |(kind, _)| kind.as_str()))
    .bind(column(identities, |(_, value)| value.as_str()))
    .bind(id.0)
    .fetch_all(connection)
    .await?;
    let taken = identities
        .iter()
        .map(|(kind, _)| *kind)
        .find(|kind| !inserted.iter().any(|name| name == kind.as_str()));
    match taken {
        None => Ok(()),
        Some(IdentityKind::ReferralCode) => Err(Abort::Again("the referral code was just taken")),
        Some(kind) => Err(Error::IdentityTaken(kind).into()),
    }
}

/// The zero balance. The default asset is there from the first user on, at the price of an asset that
/// nobody has priced yet.
async fn open_first_account(
    connection: &mut PgConnection,
    user: &NewUser,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO assets (asset, share_price, created_at, updated_at)
         SELECT $1, $2, $3, $3 WHERE NOT EXISTS (SELECT FROM assets WHERE asset = $1)
         ON CONFLICT DO NOTHING",
    )
    .bind(user.default_asset.as_str())
    .bind(first_share_price().micros())
    .bind(at(user.at))
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO accounts (user_id, asset) VALUES ($1, $2)")
        .bind(user.id.0)
        .bind(user.default_asset.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn find(
    connection: &mut PgConnection,
    id: UserId,
) -> Result<Option<UserRecord>, sqlx::Error> {
    sqlx::query(concat!(select_users!("users AS u"), "WHERE u.user_id = $1"))
        .bind(id.0)
        .fetch_optional(connection)
        .await?
        .map(|row| record(&row))
        .transpose()
}

pub(super) async fn find_by_identity(
    connection: &mut PgConnection,
    query: &IdentityQuery,
) -> Result<Option<UserId>, sqlx::Error> {
    let id: Option<Uuid> =
        sqlx::query_scalar("SELECT user_id FROM user_identities WHERE kind = $1 AND value = $2")
            .bind(query.kind.as_str())
            .bind(&query.key)
            .fetch_optional(connection)
            .await?;
    Ok(id.map(UserId))
}

async fn list(
    connection: &mut PgConnection,
    page: &Page<(Timestamp, UserId)>,
) -> Result<Vec<UserRecord>, sqlx::Error> {
    sqlx::query(concat!(
        select_users!(
            "(SELECT * FROM users
              WHERE $1::timestamptz IS NULL OR (created_at, user_id) < ($1, $2)
              ORDER BY created_at DESC, user_id DESC LIMIT $3) AS u"
        ),
        "ORDER BY u.created_at DESC, u.user_id DESC"
    ))
    .bind(page.after.map(|(created_at, _)| at(created_at)))
    .bind(page.after.map(|(_, id)| id.0))
    .bind(limit(page.limit))
    .fetch_all(connection)
    .await?
    .iter()
    .map(record)
    .collect()
}

async fn referrals(
    connection: &mut PgConnection,
    id: UserId,
    page: &Page<(Timestamp, UserId)>,
) -> Result<Option<Vec<ReferralRow>>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT user_id, created_at FROM users
         WHERE referred_by = $1 AND ($2::timestamptz IS NULL OR (created_at, user_id) < ($2, $3))
         ORDER BY created_at DESC, user_id DESC LIMIT $4",
    )
    .bind(id.0)
    .bind(page.after.map(|(created_at, _)| at(created_at)))
    .bind(page.after.map(|(_, id)| id.0))
    .bind(limit(page.limit))
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() && !user_exists(connection, id).await? {
        return Ok(None);
    }
    rows.iter()
        .map(|row| {
            Ok(ReferralRow {
                user_id: row.id("user_id")?,
                created_at: row.timestamp("created_at")?,
            })
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Locks the user's row, then reads it by another statement: one that waited for the lock may join what it
/// waited for with older rows of other tables.
async fn lock(connection: &mut PgConnection, id: UserId) -> Result<UserRecord, Abort<Error>> {
    let locked: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM users WHERE user_id = $1 FOR NO KEY UPDATE")
            .bind(id.0)
            .fetch_optional(&mut *connection)
            .await?;
    if locked.is_none() {
        return Err(Error::NotFound.into());
    }
    find(connection, id).await?.ok_or(Error::NotFound.into())
}

/// Writes what [`rules::change`] decided.
async fn apply(
    connection: &mut PgConnection,
    ctx: &Context,
    changed: &Changed,
    options: RelationalOptions,
    now: Timestamp,
) -> Result<UserRecord, Abort<Error>> {
    let user = &changed.user;
    if let Some(before) = changed.status_before {
        change_status(connection, ctx, user, before, now).await?;
    }
    save(connection, user).await?;
    if !changed.identities.is_empty() {
        replace_identities(connection, changed).await?;
    }
    if options.outbox {
        outbox::enqueue(connection, vec![user_tag(user.id)], now).await?;
    }
    // Again, since a posting may have come in before the accounts were locked.
    find(connection, user.id)
        .await?
        .ok_or(Error::NotFound.into())
}

/// All that goes with a change of status. The accounts are locked after the user, in order of asset; the
/// ledger locks an account and decides by the copy of the status in it.
async fn change_status(
    connection: &mut PgConnection,
    ctx: &Context,
    user: &UserRecord,
    before: UserStatus,
    now: Timestamp,
) -> Result<(), Abort<Error>> {
    let is_empty: Vec<bool> = sqlx::query_scalar(
        "SELECT available = 0 AND locked = 0 AND shares = 0 AND locked_shares = 0 AND pending = 0
         FROM accounts WHERE user_id = $1 ORDER BY asset FOR UPDATE",
    )
    .bind(user.id.0)
    .fetch_all(&mut *connection)
    .await?;
    if user.status == UserStatus::Closed && is_empty.contains(&false) {
        return Err(Error::BalanceNotZero.into());
    }
    sqlx::query("UPDATE accounts SET owner_status = $2 WHERE user_id = $1")
        .bind(user.id.0)
        .bind(user.status.as_str())
        .execute(&mut *connection)
        .await?;
    if user.status != UserStatus::Active {
        sessions::end_all(connection, user.id, now).await?;
    }
    let draft = drafts::status_change(ctx, user.id, before, user.status, now);
    audit::append(connection, draft).await?;
    Ok(())
}

async fn save(connection: &mut PgConnection, user: &UserRecord) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE users SET email = $2, name = $3, wallet_address = $4, phone = $5, social_provider = $6,
             social_id = $7, status = $8, kyc_status = $9, kyc_data = $10, version = $11, updated_at = $12
         WHERE user_id = $1",
    )
    .bind(user.id.0)
    .bind(user.email.as_str())
    .bind(user.name.as_str())
    .bind(user.wallet_address.as_ref().map(ToString::to_string))
    .bind(user.phone.as_ref().map(|phone| phone.as_str()))
    .bind(user.social.as_ref().map(|social| social.provider().as_str()))
    .bind(user.social.as_ref().map(SocialId::id))
    .bind(user.status.as_str())
    .bind(user.kyc.status.as_str())
    .bind(canonical_json(&user.kyc.data))
    .bind(user.version)
    .bind(at(user.updated_at))
    .execute(connection)
    .await?;
    Ok(())
}

async fn replace_identities(
    connection: &mut PgConnection,
    changed: &Changed,
) -> Result<(), Abort<Error>> {
    sqlx::query("DELETE FROM user_identities WHERE user_id = $1 AND kind = ANY($2)")
        .bind(changed.user.id.0)
        .bind(column(&changed.identities, |(kind, _)| kind.as_str()))
        .execute(&mut *connection)
        .await?;
    let wanted: Vec<_> = changed
        .identities
        .iter()
        .filter_map(|(kind, value)| value.clone().map(|value| (*kind, value)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    insert_identities(connection, changed.user.id, &wanted).await
}

fn record(row: &PgRow) -> Result<UserRecord, sqlx::Error> {
    let provider = row.optional_text("social_provider")?;
    let social = match (provider, row.optional_text("social_id")?) {
        (Some(provider), Some(id)) => Some(
            SocialId::parse(&format!("{provider}:{id}"))
                .map_err(|_invalid| undecodable("social_id", "not a known value"))?,
        ),
        _ => None,
    };
    Ok(UserRecord {
        id: row.id("user_id")?,
        email: row.parsed("email", |text| text.parse().ok())?,
        name: row.parsed("name", |text| text.parse().ok())?,
        wallet_address: row.optional_parsed("wallet_address", |text| text.parse().ok())?,
        phone: row.optional_parsed("phone", |text| text.parse().ok())?,
        social,
        status: row.parsed("status", UserStatus::from_name)?,
        kyc: Kyc {
            status: row.parsed("kyc_status", KycStatus::from_name)?,
            data: row.json("kyc_data")?,
        },
        referral: Referral {
            code: row.parsed("referral_code", |text| text.parse().ok())?,
            referred_by: row.optional_id("referred_by")?,
            count: row.integer("referral_count")?,
        },
        balances: balances(row)?,
        heads: heads_of(row)?,
        version: row.integer("version")?,
        created_at: row.timestamp("created_at")?,
        updated_at: row.timestamp("updated_at")?,
    })
}

/// An aggregated column; without any row it is null.
fn aggregated<T>(row: &PgRow, column: &str) -> Result<std::vec::IntoIter<T>, sqlx::Error>
where
    for<'r> Vec<T>: sqlx::Decode<'r, sqlx::Postgres>,
    Vec<T>: sqlx::Type<sqlx::Postgres>,
{
    Ok(row
        .try_get::<Option<Vec<T>>, _>(column)?
        .unwrap_or_default()
        .into_iter())
}

fn balances(row: &PgRow) -> Result<Vec<Balance>, sqlx::Error> {
    /// The next one of a column that is as long as the others.
    fn next<T>(values: &mut std::vec::IntoIter<T>) -> Result<T, sqlx::Error> {
        values
            .next()
            .ok_or_else(|| undecodable("assets", "columns of unequal length"))
    }
    let mut available = aggregated::<i64>(row, "available")?;
    let mut locked = aggregated::<i64>(row, "locked")?;
    let mut shares = aggregated::<i64>(row, "shares")?;
    let mut locked_shares = aggregated::<i64>(row, "locked_shares")?;
    let mut share_price = aggregated::<i64>(row, "share_price")?;
    let mut yield_earned = aggregated::<i64>(row, "total_yield_earned")?;
    let mut last_yield_at = aggregated::<Option<OffsetDateTime>>(row, "last_yield_at")?;
    let mut version = aggregated::<i64>(row, "account_version")?;
    aggregated::<String>(row, "assets")?
        .map(|asset| {
            let available = amount("available", next(&mut available)?)?;
            let locked = amount("locked", next(&mut locked)?)?;
            Ok(Balance {
                asset: Asset::parse(&asset)
                    .ok_or_else(|| undecodable("asset", "not a known value"))?,
                total: available
                    .checked_add(locked)
                    .ok_or_else(|| undecodable("locked", "the total is out of range"))?,
                available,
                locked,
                shares: amount("shares", next(&mut shares)?)?,
                locked_shares: amount("locked_shares", next(&mut locked_shares)?)?,
                share_price: amount("share_price", next(&mut share_price)?)?,
                total_yield_earned: amount("total_yield_earned", next(&mut yield_earned)?)?,
                last_yield_at: next(&mut last_yield_at)?.map(Timestamp::from),
                version: next(&mut version)?,
            })
        })
        .collect()
}

fn heads_of(row: &PgRow) -> Result<Vec<Head>, sqlx::Error> {
    let columns = aggregated::<i64>(row, "head_version")?
        .zip(aggregated::<Vec<u8>>(row, "head_hash")?)
        .zip(aggregated::<bool>(row, "head_deleted")?)
        .zip(aggregated::<i64>(row, "applied_version")?)
        .zip(aggregated::<Option<String>>(row, "image")?)
        .zip(aggregated::<OffsetDateTime>(row, "head_updated_at")?);
    let mut heads = aggregated::<String>(row, "kinds")?
        .zip(columns)
        .map(
            |(kind, (((((version, digest), deleted), applied_version), image), updated_at))| {
                Ok(Head {
                    kind: DocumentKind::from_name(&kind)
                        .ok_or_else(|| undecodable("kind", "not a known value"))?,
                    version,
                    hash: hash("hash", &digest)?,
                    deleted,
                    applied_version,
                    image,
                    updated_at: updated_at.into(),
                })
            },
        )
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    heads.sort_unstable_by_key(|head| head.kind);
    Ok(heads)
}
