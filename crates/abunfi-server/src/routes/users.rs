//! Users.

use abunfi::clock::Timestamp;
use abunfi::documents::canonical::Root;
use abunfi::documents::preferences::check_preferences;
use abunfi::ids::UserId;
use abunfi::json_reader::{Reader, text};
use abunfi::keys::Scope;
use abunfi::users::identity::SocialProvider;
use abunfi::users::{
    CreateUser, Email, HybridUser, IdentityKind, IdentityQuery, KycRequest, KycStatus, Name, Phone,
    ReferralCode, SocialId, UserPatch, UserStatus, WalletAddress,
};
use abunfi::validation::{FaultCode, Faults};
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{from_cache, json, located, tagged, written};
use super::fields::{document, not_null, present, word};
use crate::error::{Problem, Result};
use crate::extract::{
    BySession, Caller, Pagination, PathParams, Preconditions, QueryString, RequestBody,
};
use crate::openapi::{params, schemas};
use crate::state::App;

/// Characters of the reason of a change.
const MAX_REASON_CHARS: usize = 1_000;
/// How often a patch of a part of `social` is tried when others change the user meanwhile.
const PATCH_ATTEMPTS: usize = 4;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_user, list_users))
        .routes(routes!(get_user, update_user))
        .routes(routes!(set_kyc))
        .routes(routes!(list_referrals))
}

/// Make a user
///
/// The user, its zero balance in the default asset, its identities and its documents are one commit.
#[utoipa::path(post, path = "/api/v1/users", tag = "users",
    request_body = schemas::NewUser,
    responses(
        (status = 201, description = "The new user", body = schemas::User,
            headers(("Location" = String), ("ETag" = String))),
        (status = 409, description = "`email_taken`, `wallet_address_taken`, `phone_taken`, `social_taken`"),
    ))]
async fn create_user(
    State(app): State<App>,
    caller: Caller,
    query: QueryString,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    query.expect_none()?;
    let request = read_new_user(body.json().await?)?;
    let user = app
        .platform()
        .users()
        .create(&caller.context(), request)
        .await?;
    let address = format!("/api/v1/users/{}", user.id);
    located(written(StatusCode::CREATED, user.version, &user)?, &address)
}

/// Look a user up, or list all
///
/// With one of the identities: an exact look-up, at most one in `data`. With none: all users, newest first.
#[utoipa::path(get, path = "/api/v1/users", tag = "users",
    params(params::UserLookup, params::PageParams),
    responses((status = 200, description = "A page of users", body = schemas::UserList)))]
async fn list_users(State(app): State<App>, caller: Caller, query: QueryString) -> Result {
    caller.require(Scope::Read)?;
    let mut query = query.read()?;
    let mut lookup: Option<IdentityQuery> = None;
    for kind in IdentityKind::ALL {
        let name = kind.as_str();
        let expected = format!("a well-formed {name}");
        if let Some(key) = query.parse(name, &expected, |value| kind.key(value).ok())? {
            if lookup.is_some() {
                return Err(Problem::invalid_parameter("a look-up is by one identity"));
            }
            lookup = Some(IdentityQuery { kind, key });
        }
    }
    let filters = match &lookup {
        Some(IdentityQuery { kind, key }) => format!("users\n{kind}={key}"),
        None => "users".to_owned(),
    };
    let pagination = Pagination::<(Timestamp, UserId)>::read(&mut query, filters)?;
    query.finish()?;
    let users = app.platform().users();
    let rows = match lookup {
        Some(lookup) => users.find(&lookup).await?.into_iter().collect(),
        None => users.list(&pagination.page()).await?,
    };
    let list = pagination.list(rows, |last| (last.created_at, last.id), |user| user)?;
    json(StatusCode::OK, &list)
}

/// The hybrid user
///
/// One read over all three stores, or from the cache: `X-Cache` says which, `Age` how old. The tag covers the
/// whole body.
#[utoipa::path(get, path = "/api/v1/users/{id}", tag = "users",
    params(params::UserPath, params::CacheParam),
    responses(
        (status = 200, description = "The user", body = schemas::User,
            headers(("ETag" = String), ("X-Cache" = String), ("Age" = i64))),
        (status = 304, description = "The client has it already"),
    ))]
async fn get_user(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let use_cache = query.flag("cache")?.unwrap_or(true);
    query.finish()?;
    let served = app.platform().get_user_by_id(id, use_cache).await?;
    let served = served.ok_or_else(Problem::not_found)?;
    let rendered = app.profiles().render(served.value)?;
    let response = tagged(&preconditions, &rendered.tag, rendered.body.clone())?;
    Ok(from_cache(response, served.source, served.age))
}

/// Change a user
///
/// A merge patch (RFC 7396). `closed` is final, and needs zero balances and nothing pending.
#[utoipa::path(patch, path = "/api/v1/users/{id}", tag = "users",
    params(params::UserPath, params::WriteConditions),
    request_body(content((schemas::UserPatch = "application/merge-patch+json"), (schemas::UserPatch = "application/json"))),
    responses(
        (status = 200, description = "The user", body = schemas::User, headers(("ETag" = String))),
        (status = 409, description = "`email_taken`, `wallet_address_taken`, `phone_taken`, `social_taken`, `invalid_transition`, `balance_not_zero`"),
    ))]
async fn update_user(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Refused)?;
    query.expect_none()?;
    let if_match = preconditions.version()?;
    let patch = read_patch(body.merge_patch().await?)?;
    let user = apply_patch(&app, &caller, id, &patch, if_match).await?;
    written(StatusCode::OK, user.version, &user)
}

/// Set the state of a user's identity check
///
/// Audited. `data` replaces what is there; left out, it stays.
#[utoipa::path(put, path = "/api/v1/users/{id}/kyc", tag = "users",
    params(params::UserPath, params::WriteConditions),
    request_body = schemas::KycRequest,
    responses((status = 200, description = "The user", body = schemas::User, headers(("ETag" = String)))))]
async fn set_kyc(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Operate, BySession::Refused)?;
    query.expect_none()?;
    let if_match = preconditions.version()?;
    let request = read_kyc(body.json().await?)?;
    let user = app
        .platform()
        .users()
        .set_kyc(&caller.context(), id, request, if_match)
        .await?;
    written(StatusCode::OK, user.version, &user)
}

/// Whom a user referred
#[utoipa::path(get, path = "/api/v1/users/{id}/referrals", tag = "users",
    params(params::UserPath, params::PageParams),
    responses((status = 200, description = "Newest first", body = schemas::Referrals)))]
async fn list_referrals(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let filters = format!("referrals\n{id}");
    let pagination = Pagination::<(Timestamp, UserId)>::read(&mut query, filters)?;
    query.finish()?;
    let found = app
        .platform()
        .users()
        .referrals(id, &pagination.page())
        .await?;
    let (referral, rows) = found.ok_or_else(Problem::not_found)?;
    let list = pagination.list(rows, |last| (last.created_at, last.user_id), |row| row)?;
    let mut answer = serde_json::Map::new();
    answer.insert("code".to_owned(), json!(referral.code));
    answer.insert("count".to_owned(), json!(referral.count));
    answer.extend(list);
    json(StatusCode::OK, &answer)
}

fn read_new_user(body: Value) -> std::result::Result<CreateUser, Faults> {
    let mut reader = Reader::new(body, "");
    let email = reader.required("email", |text| Ok(Email::parse(text)?));
    let name = reader.required("name", |text| Ok(Name::parse(text)?));
    let wallet_address = reader.optional("wallet_address", |text| Ok(WalletAddress::parse(text)?));
    let phone = reader.optional("phone", |text| Ok(Phone::parse(text)?));
    let social = reader.take("social").filter(|social| !social.is_null());
    let social = social.and_then(|social| read_social(&mut reader, social)?.whole(&mut reader));
    let referred_by = reader.optional("referred_by", |text| Ok(ReferralCode::parse(text)?));
    let preferences = document(&mut reader, "preferences", Root::Object);
    if let Some(preferences) = preferences
        .as_ref()
        .filter(|preferences| preferences.is_object())
        && let Err(faults) = check_preferences(preferences, "/preferences")
    {
        reader.absorb(faults);
    }
    let metadata = document(&mut reader, "metadata", Root::Object);
    reader.finish()?;
    Ok(CreateUser {
        email: present(email)?,
        name: present(name)?,
        wallet_address,
        phone,
        social,
        referred_by,
        preferences,
        metadata,
    })
}

/// `social` as a body has it, perhaps in part.
#[derive(Debug, Clone)]
struct SocialParts {
    provider: Option<SocialProvider>,
    id: Option<String>,
}

/// Reads `social`; `None` when it has a fault.
fn read_social(reader: &mut Reader, social: Value) -> Option<SocialParts> {
    let pointer = reader.pointer_to("social");
    let mut parts = Reader::new(social, &pointer);
    let provider = not_null(&mut parts, "provider", |text| {
        Ok(SocialProvider::parse(text)?)
    });
    let id = not_null(&mut parts, "id", |text| {
        // The provider does not matter to the check of the id.
        Ok(SocialId::new(SocialProvider::Google, text)?.id().to_owned())
    });
    match parts.finish() {
        Ok(()) => Some(SocialParts { provider, id }),
        Err(faults) => {
            reader.absorb(faults);
            None
        }
    }
}

impl SocialParts {
    /// Both parts, or a fault for each that is missing.
    fn whole(self, reader: &mut Reader) -> Option<SocialId> {
        match self.over(None) {
            Ok(social) => Some(social),
            Err(faults) => {
                reader.absorb(faults);
                None
            }
        }
    }

    /// These parts, with those that are missing from what is there.
    fn over(self, current: Option<&SocialId>) -> std::result::Result<SocialId, Faults> {
        const DETAIL: &str = "this field is required";
        let mut faults = Faults::new();
        let provider = self.provider.or(current.map(SocialId::provider));
        let id = self.id.or(current.map(|current| current.id().to_owned()));
        if provider.is_none() {
            faults.add("/social/provider", FaultCode::Required, DETAIL);
        }
        if id.is_none() {
            faults.add("/social/id", FaultCode::Required, DETAIL);
        }
        faults.into_result()?;
        SocialId::new(present(provider)?, &present(id)?)
            .map_err(|invalid| invalid.at("/social/id").into())
    }
}

/// What a `PATCH` asks for; `social` may be a part of it only.
#[derive(Debug, Clone)]
struct Patch {
    change: UserPatch,
    social: Option<SocialParts>,
}

fn read_patch(body: Value) -> std::result::Result<Patch, Faults> {
    const STATUSES: &str = "active, suspended, closed";
    let mut reader = Reader::new(body, "");
    let mut change = UserPatch {
        name: not_null(&mut reader, "name", |text| Ok(Name::parse(text)?)),
        email: not_null(&mut reader, "email", |text| Ok(Email::parse(text)?)),
        wallet_address: reader.nullable("wallet_address", |text| Ok(WalletAddress::parse(text)?)),
        phone: reader.nullable("phone", |text| Ok(Phone::parse(text)?)),
        social: None,
        status: not_null(&mut reader, "status", |text| {
            word(text, STATUSES, UserStatus::from_name)
        }),
    };
    let mut social = None;
    match reader.take("social") {
        None => {}
        Some(Value::Null) => change.social = Some(None),
        Some(value) => social = read_social(&mut reader, value),
    }
    reader.finish()?;
    Ok(Patch { change, social })
}

/// Applies a patch. One of a part of `social` is merged into what is there, and holds only if nobody changed
/// the user meanwhile.
async fn apply_patch(
    app: &App,
    caller: &Caller,
    id: UserId,
    patch: &Patch,
    if_match: Option<i64>,
) -> Result<HybridUser> {
    let users = app.platform().users();
    let context = caller.context();
    let mut change = patch.change.clone();
    let Some(parts) = &patch.social else {
        return Ok(users.update(&context, id, change, if_match).await?);
    };
    if let (Some(provider), Some(account)) = (parts.provider, &parts.id) {
        let social = SocialId::new(provider, account)
            .map_err(|invalid| Faults::from(invalid.at("/social/id")))?;
        change.social = Some(Some(social));
        return Ok(users.update(&context, id, change, if_match).await?);
    }
    let mut attempt = 1;
    loop {
        let current = users.get(id, false).await?.ok_or_else(Problem::not_found)?;
        let current = current.value;
        change.social = Some(Some(parts.clone().over(current.social.as_ref())?));
        let expected = if_match.unwrap_or(current.version);
        let updated = users
            .update(&context, id, change.clone(), Some(expected))
            .await;
        match updated {
            Err(abunfi::users::Error::VersionMismatch { .. })
                if if_match.is_none() && attempt < PATCH_ATTEMPTS =>
            {
                attempt += 1;
            }
            updated => return Ok(updated?),
        }
    }
}

fn read_kyc(body: Value) -> std::result::Result<KycRequest, Faults> {
    const STATUSES: &str = "pending, verified, rejected";
    let mut reader = Reader::new(body, "");
    let status = reader.required("status", |text| word(text, STATUSES, KycStatus::from_name));
    let data = document(&mut reader, "data", Root::Object);
    let reason = reader.optional("reason", |value| text(value, MAX_REASON_CHARS));
    reader.finish()?;
    Ok(KycRequest {
        status: present(status)?,
        data,
        reason,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    fn faults_of<T>(read: std::result::Result<T, Faults>) -> Vec<(String, &'static str)> {
        read.err()
            .unwrap_or_default()
            .into_iter()
            .map(|fault| (fault.pointer, fault.code.as_str()))
            .collect()
    }

    #[test]
    fn all_faults_of_a_new_user_come_at_once() {
        let body = json!({
            "email": "no", "wallet_address": "0x1", "phone": "1", "social": {"provider": "x"},
            "referred_by": "0", "preferences": {"language": "fr"}, "metadata": [], "nmae": "An",
        });
        let mut faults = faults_of(read_new_user(body));
        faults.sort();
        assert_eq!(
            faults,
            [
                ("/email", "bad_format"),
                ("/metadata", "wrong_type"),
                ("/name", "required"),
                ("/nmae", "unknown_field"),
                ("/phone", "bad_format"),
                ("/preferences/language", "not_allowed"),
                ("/referred_by", "bad_format"),
                ("/social/provider", "not_allowed"),
                ("/wallet_address", "bad_format"),
            ]
            .map(|(pointer, code)| (pointer.to_owned(), code))
        );
    }

    #[test]
    fn a_patch_clears_by_null_what_may_be_cleared() {
        let patch = read_patch(json!({"phone": null, "social": null})).unwrap();
        assert_eq!(patch.change.phone, Some(None));
        assert_eq!(patch.change.social, Some(None));
        assert!(patch.change.wallet_address.is_none());
        let faults = faults_of(read_patch(json!({"name": null, "status": null})));
        let expected = [("/name", "not_allowed"), ("/status", "not_allowed")];
        assert_eq!(faults, expected.map(|(at, code)| (at.to_owned(), code)));
    }

    #[test]
    fn a_part_of_social_is_merged_over_what_is_there() {
        let patch = read_patch(json!({"social": {"id": "2"}})).unwrap();
        let parts = patch.social.unwrap();
        let current = SocialId::parse("google:1").unwrap();
        assert_eq!(
            parts.clone().over(Some(&current)).unwrap().key(),
            "google:2"
        );
        assert_eq!(
            faults_of(parts.over(None)),
            [("/social/provider".to_owned(), "required")]
        );
    }
}
