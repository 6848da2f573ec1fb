//! Users on SQLite.

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::columns::{Columns, amount, descending_from};
use super::error::{Abort, undecodable};
use super::{Sqlite, audit, heads, outbox, sessions, user_exists};
use crate::audit::drafts;
use crate::cache::user_tag;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::canonical::canonical_json;
use crate::documents::{DocumentKey, DocumentKind, Expected, Head, HeadWrite};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::{Asset, Balance, Page, first_share_price};
use crate::stores::RelationalOptions;
use crate::users::identity::SocialProvider;
use crate::users::{
    Email, Error, IdentityKind, IdentityQuery, Kyc, KycChange, KycStatus, Name, NewUser, Phone,
    Referral, ReferralCode, ReferralRow, SocialId, Store, UserChange, UserRecord, UserStatus,
    WalletAddress, rules,
};

/// What a query selects to be read by [`record`]: user, balances and heads in one statement, so of one
/// moment.
macro_rules! select_users {
    ($rest:literal) => {
        concat!(
            "SELECT user.*,
                 (SELECT count(*) FROM users AS referred WHERE referred.referred_by = user.user_id)
                     AS referral_count,
                 (SELECT json_group_array(json_array(
                      asset, account.available, account.locked, account.shares, account.locked_shares,
                      asset.share_price, account.total_yield_earned, account.last_yield_at, account.version)
                      ORDER BY asset)
                  FROM accounts AS account JOIN assets AS asset USING (asset)
                  WHERE account.user_id = user.user_id) AS balances,
                 (SELECT json_group_array(json_array(
                      kind, version, hex(hash), deleted, applied_version, image, updated_at) ORDER BY kind)
                  FROM document_heads AS head WHERE head.user_id = user.user_id) AS heads
             FROM users AS user ",
            $rest
        )
    };
}

/// A balance as [`select_users`] packs it.
type BalanceRow = (String, i64, i64, i64, i64, i64, i64, Option<i64>, i64);
/// A head as [`select_users`] packs it.
type HeadRow = (String, i64, String, i64, i64, Option<String>, i64);

pub(super) async fn find(
    connection: &mut SqliteConnection,
    id: UserId,
) -> Result<Option<UserRecord>, sqlx::Error> {
    sqlx::query(select_users!("WHERE user.user_id = ?1"))
        .bind(id.0)
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(record)
        .transpose()
}

pub(super) async fn find_by_identity(
    connection: &mut SqliteConnection,
    kind: IdentityKind,
    key: &str,
) -> Result<Option<UserId>, sqlx::Error> {
    sqlx::query("SELECT user_id FROM user_identities WHERE kind = ?1 AND value = ?2")
        .bind(kind.as_str())
        .bind(key)
        .fetch_optional(connection)
        .await?
        .map(|row| row.id("user_id"))
        .transpose()
}

/// The whole of a new user, inside the caller's unit of work.
pub(super) async fn create(
    connection: &mut SqliteConnection,
    options: RelationalOptions,
    user: &NewUser,
) -> Result<UserRecord, Abort<Error>> {
    let referrer = match &user.referred_by {
        None => None,
        Some(code) => Some(
            find_by_identity(connection, IdentityKind::ReferralCode, &code.key())
                .await?
                .ok_or(Error::UnknownReferralCode)?,
        ),
    };
    let code = free_code(connection, &user.referral_codes).await?;
    insert_user(connection, user, &code, referrer).await?;
    let code = (IdentityKind::ReferralCode, code.key());
    for (kind, key) in rules::identities_of(user).into_iter().chain([code]) {
        claim_identity(connection, user.id, kind, &key).await?;
    }
    open_account(connection, user).await?;
    for (kind, content) in [
        (DocumentKind::Preferences, &user.documents.preferences),
        (DocumentKind::Metadata, &user.documents.metadata),
    ] {
        let write = HeadWrite {
            key: DocumentKey {
                user_id: user.id,
                kind,
            },
            expected: Expected::Anything,
            content: Some(content.clone()),
            import: None,
            at: user.at,
        };
        heads::put(connection, options, &write, None).await?;
    }
    find(connection, user.id)
        .await?
        .ok_or_else(|| Abort::Driver(sqlx::Error::RowNotFound))
}

/// The tags of what shows the new user: its own, and its referrer's count.
pub(super) fn tags_of_new(user: &UserRecord) -> Vec<String> {
    std::iter::once(user.id)
        .chain(user.referral.referred_by)
        .map(user_tag)
        .collect()
}

#[async_trait]
impl Store for Sqlite {
    async fn create(&self, _ctx: &Context, user: &NewUser) -> Result<UserRecord, Error> {
        self.relational
            .write(async |connection| {
                let made = create(connection, self.options, user).await?;
                if self.options.outbox {
                    outbox::enqueue(connection, tags_of_new(&made), user.at).await?;
                }
                Ok(made)
            })
            .await
    }

    async fn find(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.relational
            .read(async |connection| find(connection, id).await)
            .await
    }

    async fn find_by_identity(&self, query: &IdentityQuery) -> Result<Option<UserId>, StoreError> {
        self.relational
            .read(async |connection| find_by_identity(connection, query.kind, &query.key).await)
            .await
    }

    async fn list(&self, page: &Page<(Timestamp, UserId)>) -> Result<Vec<UserRecord>, StoreError> {
        let (created_at, id) = descending_from(page.after.map(|(at, id)| (at, id.0)));
        self.relational
            .read(async |connection| {
                sqlx::query(select_users!(
                    "WHERE (user.created_at, user.user_id) < (?1, ?2)
                     ORDER BY user.created_at DESC, user.user_id DESC LIMIT ?3"
                ))
                .bind(created_at)
                .bind(id)
                .bind(page.limit)
                .fetch_all(connection)
                .await?
                .iter()
                .map(record)
                .collect()
            })
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
        self.relational
            .write(async |connection| {
                let user = find(connection, id).await?.ok_or(Error::NotFound)?;
                let Some(changed) = rules::change(&user, change, if_match, at)? else {
                    return Ok(user);
                };
                for (kind, key) in &changed.identities {
                    drop_identity(connection, id, *kind).await?;
                    if let Some(key) = key {
                        claim_identity(connection, id, *kind, key).await?;
                    }
                }
                if let Some(before) = changed.status_before {
                    change_status(connection, ctx, &changed.user, before, at).await?;
                }
                update_user(connection, &changed.user).await?;
                if self.options.outbox {
                    outbox::enqueue(connection, vec![user_tag(id)], at).await?;
                }
                Ok(changed.user)
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
        self.relational
            .write(async |connection| {
                let user = find(connection, id).await?.ok_or(Error::NotFound)?;
                let after = rules::set_kyc(&user, change, if_match, at)?;
                let draft = drafts::kyc_change(ctx, id, user.kyc.status, change, at);
                audit::append(connection, draft).await?;
                update_user(connection, &after).await?;
                if self.options.outbox {
                    outbox::enqueue(connection, vec![user_tag(id)], at).await?;
                }
                Ok(after)
            })
            .await
    }

    async fn referrals(
        &self,
        id: UserId,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Option<Vec<ReferralRow>>, StoreError> {
        let (created_at, after) = descending_from(page.after.map(|(at, id)| (at, id.0)));
        self.relational
            .snapshot(async |connection| {
                let rows = sqlx::query(
                    "SELECT user_id, created_at FROM users
                     WHERE referred_by = ?1 AND (created_at, user_id) < (?2, ?3)
                     ORDER BY created_at DESC, user_id DESC LIMIT ?4",
                )
                .bind(id.0)
                .bind(created_at)
                .bind(after)
                .bind(page.limit)
                .fetch_all(&mut *connection)
                .await?;
                if rows.is_empty() && !user_exists(connection, id).await? {
                    return Ok(None);
                }
                let referral = |row: &SqliteRow| {
                    Ok(ReferralRow {
                        user_id: row.id("user_id")?,
                        created_at: row.timestamp("created_at")?,
                    })
                };
                rows.iter()
                    .map(referral)
                    .collect::<Result<_, _>>()
                    .map(Some)
            })
            .await
    }
}

/// The first of the codes that nobody has.
async fn free_code(
    connection: &mut SqliteConnection,
    codes: &[ReferralCode],
) -> Result<ReferralCode, Abort<Error>> {
    for code in codes {
        let taken = find_by_identity(connection, IdentityKind::ReferralCode, &code.key()).await?;
        if taken.is_none() {
            return Ok(*code);
        }
    }
    Err(Abort::Refused(Error::IdentityTaken(
        IdentityKind::ReferralCode,
    )))
}

async fn insert_user(
    connection: &mut SqliteConnection,
    user: &NewUser,
    code: &ReferralCode,
    referrer: Option<UserId>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO users (user_id, email, name, wallet_address, phone, social_provider, social_id,
             referral_code, referred_by, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)",
    )
    .bind(user.id.0)
    .bind(user.email.as_str())
    .bind(user.name.as_str())
    .bind(user.wallet_address.as_ref().map(ToString::to_string))
    .bind(user.phone.as_ref().map(Phone::as_str))
    .bind(user.social.as_ref().map(|social| social.provider().as_str()))
    .bind(user.social.as_ref().map(SocialId::id))
    .bind(code.to_string())
    .bind(referrer.map(|referrer| referrer.0))
    .bind(user.at.micros())
    .execute(connection)
    .await?;
    Ok(())
}

async fn claim_identity(
    connection: &mut SqliteConnection,
    id: UserId,
    kind: IdentityKind,
    key: &str,
) -> Result<(), Abort<Error>> {
    let claimed = sqlx::query(
        "INSERT INTO user_identities (kind, value, user_id) VALUES (?1, ?2, ?3)
         ON CONFLICT (kind, value) DO NOTHING",
    )
    .bind(kind.as_str())
    .bind(key)
    .bind(id.0)
    .execute(connection)
    .await?;
    if claimed.rows_affected() == 0 {
        return Err(Abort::Refused(Error::IdentityTaken(kind)));
    }
    Ok(())
}

async fn drop_identity(
    connection: &mut SqliteConnection,
    id: UserId,
    kind: IdentityKind,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM user_identities WHERE user_id = ?1 AND kind = ?2")
        .bind(id.0)
        .bind(kind.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The zero balance in the default asset, which is made with the first user.
async fn open_account(
    connection: &mut SqliteConnection,
    user: &NewUser,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO assets (asset, share_price, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (asset) DO NOTHING",
    )
    .bind(user.default_asset.as_str())
    .bind(first_share_price().micros())
    .bind(user.at.micros())
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO accounts (user_id, asset) VALUES (?1, ?2)")
        .bind(user.id.0)
        .bind(user.default_asset.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// What a change of status brings with it: the accounts' copy, the audit row, the end of the sessions.
async fn change_status(
    connection: &mut SqliteConnection,
    ctx: &Context,
    user: &UserRecord,
    before: UserStatus,
    at: Timestamp,
) -> Result<(), Abort<Error>> {
    if user.status == UserStatus::Closed && has_something_left(connection, user.id).await? {
        return Err(Abort::Refused(Error::BalanceNotZero));
    }
    sqlx::query("UPDATE accounts SET owner_status = ?2 WHERE user_id = ?1")
        .bind(user.id.0)
        .bind(user.status.as_str())
        .execute(&mut *connection)
        .await?;
    let draft = drafts::status_change(ctx, user.id, before, user.status, at);
    audit::append(connection, draft).await?;
    if user.status != UserStatus::Active {
        sessions::end_all(connection, user.id, at).await?;
    }
    Ok(())
}

async fn has_something_left(
    connection: &mut SqliteConnection,
    id: UserId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM accounts WHERE user_id = ?1 AND
             (available > 0 OR locked > 0 OR shares > 0 OR locked_shares > 0 OR pending > 0))",
    )
    .bind(id.0)
    .fetch_one(connection)
    .await
}

async fn update_user(
    connection: &mut SqliteConnection,
    user: &UserRecord,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE users SET email = ?2, name = ?3, wallet_address = ?4, phone = ?5, social_provider = ?6,
             social_id = ?7, status = ?8, kyc_status = ?9, kyc_data = ?10, version = ?11, updated_at = ?12
         WHERE user_id = ?1",
    )
    .bind(user.id.0)
    .bind(user.email.as_str())
    .bind(user.name.as_str())
    .bind(user.wallet_address.as_ref().map(ToString::to_string))
    .bind(user.phone.as_ref().map(Phone::as_str))
    .bind(user.social.as_ref().map(|social| social.provider().as_str()))
    .bind(user.social.as_ref().map(SocialId::id))
    .bind(user.status.as_str())
    .bind(user.kyc.status.as_str())
    .bind(canonical_json(&user.kyc.data))
    .bind(user.version)
    .bind(user.updated_at.micros())
    .execute(connection)
    .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<UserRecord, sqlx::Error> {
    let balances: Vec<BalanceRow> = packed(row, "balances")?;
    let heads: Vec<HeadRow> = packed(row, "heads")?;
    Ok(UserRecord {
        id: row.id("user_id")?,
        email: row.parsed("email", |text| Email::parse(text).ok())?,
        name: row.parsed("name", |text| Name::parse(text).ok())?,
        wallet_address: row
            .optional_parsed("wallet_address", |text| WalletAddress::parse(text).ok())?,
        phone: row.optional_parsed("phone", |text| Phone::parse(text).ok())?,
        social: social(row)?,
        status: row.parsed("status", UserStatus::from_name)?,
        kyc: Kyc {
            status: row.parsed("kyc_status", KycStatus::from_name)?,
            data: row.json("kyc_data")?,
        },
        referral: Referral {
            code: row.parsed("referral_code", |text| ReferralCode::parse(text).ok())?,
            referred_by: row.optional_id("referred_by")?,
            count: row.integer("referral_count")?,
        },
        balances: balances
            .into_iter()
            .map(balance)
            .collect::<Result<_, _>>()?,
        heads: heads.into_iter().map(head).collect::<Result<_, _>>()?,
        version: row.integer("version")?,
        created_at: row.timestamp("created_at")?,
        updated_at: row.timestamp("updated_at")?,
    })
}

/// Rows that a query packed into one JSON value: texts and 64-bit integers, which JSON keeps exactly.
fn packed<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| undecodable(column, error))
}

fn social(row: &SqliteRow) -> Result<Option<SocialId>, sqlx::Error> {
    let provider =
        row.optional_parsed("social_provider", |text| SocialProvider::parse(text).ok())?;
    let id = row.optional_text("social_id")?;
    let (Some(provider), Some(id)) = (provider, id) else {
        return Ok(None);
    };
    SocialId::new(provider, &id)
        .map(Some)
        .map_err(|_invalid| undecodable("social_id", "not an account id"))
}

fn balance(row: BalanceRow) -> Result<Balance, sqlx::Error> {
    let (asset, available, locked, shares, locked_shares, share_price, earned, yield_at, version) =
        row;
    let available = amount("available", available)?;
    let locked = amount("locked", locked)?;
    Ok(Balance {
        asset: Asset::parse(&asset).ok_or_else(|| undecodable("asset", "not an asset code"))?,
        total: available
            .checked_add(locked)
            .ok_or_else(|| undecodable("locked", "the total is out of range"))?,
        available,
        locked,
        shares: amount("shares", shares)?,
        locked_shares: amount("locked_shares", locked_shares)?,
        share_price: amount("share_price", share_price)?,
        total_yield_earned: amount("total_yield_earned", earned)?,
        last_yield_at: yield_at.map(Timestamp::from_micros),
        version,
    })
}

fn head(row: HeadRow) -> Result<Head, sqlx::Error> {
    let (kind, version, hash, deleted, applied_version, image, updated_at) = row;
    let mut bytes = [0; 32];
    hex::decode_to_slice(hash, &mut bytes).map_err(|error| undecodable("hash", error))?;
    Ok(Head {
        kind: DocumentKind::from_name(&kind)
            .ok_or_else(|| undecodable("kind", "not a kind of document"))?,
        version,
        hash: bytes,
        deleted: deleted != 0,
        applied_version,
        image,
        updated_at: Timestamp::from_micros(updated_at),
    })
}
