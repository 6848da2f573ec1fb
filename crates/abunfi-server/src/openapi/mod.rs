//! The OpenAPI 3.1 description, collected from the routes.
//!
//! What every operation has (who may, which refusals) is added here once, so that a handler names only what
//! is its own. The same code always gives the same text.

mod examples;
pub(crate) mod params;
pub(crate) mod schemas;

use serde_json::{Map, Value, json};

use crate::error::Code;

/// The document as JSON, in a fixed order.
pub(crate) fn document() -> Value {
    let (_router, openapi) = crate::routes::all();
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    let set = |document: &mut Value, key: &str, value: Value| {
        if let Some(document) = document.as_object_mut() {
            document.insert(key.to_owned(), value);
        }
    };
    set(&mut document, "openapi", json!("3.1.0"));
    set(&mut document, "info", info());
    set(&mut document, "tags", tags());
    set(&mut document, "security", json!([{"bearer": []}]));
    if let Some(components) = document
        .pointer_mut("/components")
        .and_then(Value::as_object_mut)
    {
        components.insert("responses".to_owned(), problem_responses());
        components.insert("securitySchemes".to_owned(), security_schemes());
        if let Some(Value::Object(schemas)) = components.get_mut("schemas") {
            complete_schemas(schemas);
        }
    }
    if let Some(Value::Object(paths)) = document.pointer_mut("/paths") {
        for (path, item) in paths {
            let operations = item.as_object_mut().into_iter().flatten();
            for (_method, operation) in operations {
                plain_requests(operation);
                add_common_responses(path, operation);
            }
        }
    }
    sorted(document)
}

/// What the derived schemas cannot say.
fn complete_schemas(schemas: &mut Map<String, Value>) {
    schemas.insert("Problem".to_owned(), problem_schema());
    let mut set = |name: &str, keyword: &str, value: Value| {
        if let Some(Value::Object(schema)) = schemas.get_mut(name) {
            schema.insert(keyword.to_owned(), value);
        }
    };
    set("Preferences", "additionalProperties", json!(true));
    for name in ["BatchItem", "PostedTransaction"] {
        if let Some(flat) = schemas
            .get(name)
            .and_then(|schema| flattened(schema, schemas))
        {
            schemas.insert(name.to_owned(), flat);
        }
    }
    for (name, example) in examples::all() {
        if let Some(Value::Object(schema)) = schemas.get_mut(name) {
            schema.insert("examples".to_owned(), json!([example]));
        }
    }
}

/// An `allOf` of objects as one object: what a client's generator makes the best of, and the only form in
/// which unknown fields can be excluded.
fn flattened(schema: &Value, schemas: &Map<String, Value>) -> Option<Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    let mut is_closed = false;
    for part in schema.get("allOf")?.as_array()? {
        let name = part.get("$ref").and_then(Value::as_str);
        let part = match name.and_then(|name| name.rsplit('/').next()) {
            Some(name) => schemas.get(name)?,
            None => part,
        };
        properties.extend(part.get("properties")?.as_object()?.clone());
        required.extend(part.get("required")?.as_array()?.clone());
        is_closed |= part.get("additionalProperties") == Some(&json!(false));
    }
    let mut flat = json!({"type": "object", "properties": properties, "required": required});
    if let (true, Some(flat)) = (is_closed, flat.as_object_mut()) {
        flat.insert("additionalProperties".to_owned(), json!(false));
    }
    Some(flat)
}

/// What may be left out of a request is left out, and not sent as `null`.
fn plain_requests(operation: &mut Value) {
    let parameters = operation
        .pointer_mut("/parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let kinds = parameter.pointer_mut("/schema/type");
        if let Some(kinds) = kinds
            && let Some(kind) = kinds.get(0).cloned()
        {
            *kinds = kind;
        }
    }
    let schema = operation.pointer_mut("/requestBody/content/application~1json/schema");
    if let Some(schema) = schema
        && schema.pointer("/oneOf/1/type") == Some(&json!("null"))
        && let Some(plain) = schema.pointer("/oneOf/0").cloned()
    {
        *schema = plain;
    }
}

fn info() -> Value {
    json!({
        "title": "Abunfi",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "A hybrid data platform for apps that hold small savings.",
        "description": "PostgreSQL keeps the money, MongoDB the documents, Redis makes it fast; this service \
            makes the three one database.\n\n\
            Amounts are decimal strings, times RFC 3339 in UTC, ids UUIDv7, durations integer seconds. Unknown \
            fields and query parameters are refused. Refusals are `application/problem+json` with a stable \
            `code`.\n\n\
            Requests that move money need `Idempotency-Key`: the same key with the same body gives the same \
            answer, byte for byte, with `Idempotent-Replayed: true`.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    })
}

fn tags() -> Value {
    let tags = [
        ("users", "Who the users are."),
        ("ledger", "Balances, the audit trail, the books."),
        ("transactions", "Posting and settling."),
        ("assets", "What can be saved, and its share price."),
        ("documents", "Preferences and metadata of users."),
        ("dev data", "Any JSON under a namespace and a key."),
        ("logs", "The append-only log."),
        ("dashboard", "An app's first screen as one read."),
        ("sessions", "Tokens of users."),
        ("rate limits", "Shared counters."),
        ("temporary data", "Put, get, take once."),
        ("cache", "For operators."),
        ("operations", "Health, metrics, statistics."),
    ];
    tags.map(|(name, description)| json!({"name": name, "description": description}))
        .to_vec()
        .into()
}

fn security_schemes() -> Value {
    json!({"bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A service key (`abk_…`) with scopes, or a session token (`abs_…`), which reaches only \
            the routes of its own user.",
    }})
}

fn problem_schema() -> Value {
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "description": "A refusal (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "enum": codes},
            "request_id": {"type": "string"},
            "errors": {
                "type": "array",
                "description": "With `validation_failed`: all faults at once.",
                "items": {
                    "type": "object",
                    "required": ["pointer", "code", "detail"],
                    "properties": {
                        "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) into the body."},
                        "code": {"type": "string", "enum": [
                            "required", "wrong_type", "unknown_field", "too_long", "too_short", "bad_format",
                            "out_of_range", "too_many_decimals", "not_allowed",
                        ]},
                        "detail": {"type": "string"},
                    },
                },
            },
            "available": {"type": "string", "description": "With `insufficient_funds` and `insufficient_shares`."},
            "from": {"type": "string", "description": "With `invalid_transition`."},
            "to": {"type": "string", "description": "With `invalid_transition`."},
            "index": {"type": "integer", "description": "With `batch_failed`."},
            "error": {"$ref": "#/components/schemas/Problem"},
            "current": {"type": "integer", "description": "With `version_mismatch`: the version that is there."},
        },
    })
}

/// One response for each status that has codes.
fn problem_responses() -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for status in statuses() {
        let codes: Vec<_> = Code::ALL
            .iter()
            .filter(|code| code.status().as_u16() == status)
            .map(|code| format!("`{}`", code.as_str()))
            .collect();
        let mut response = json!({
            "description": codes.join(", "),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        });
        if matches!(status, 429 | 503)
            && let Some(response) = response.as_object_mut()
        {
            let seconds = json!({"description": "Seconds.", "schema": {"type": "integer"}});
            response.insert("headers".to_owned(), json!({"Retry-After": seconds}));
        }
        responses.insert(name_of(status), response);
    }
    Value::Object(responses)
}

fn statuses() -> Vec<u16> {
    let mut statuses: Vec<_> = Code::ALL
        .iter()
        .map(|code| code.status().as_u16())
        .collect();
    statuses.dedup();
    statuses
}

fn name_of(status: u16) -> String {
    format!("Problem{status}")
}

/// The refusals that an operation can meet, by what it has: an address, a body, a precondition.
fn add_common_responses(path: &str, operation: &mut Value) {
    let has_parameter = |name: &str| {
        operation
            .pointer("/parameters")
            .and_then(Value::as_array)
            .is_some_and(|all| {
                all.iter()
                    .any(|parameter| parameter.get("name").and_then(Value::as_str) == Some(name))
            })
    };
    let is_open = operation.get("security").is_some();
    let has_body = operation.get("requestBody").is_some();
    let mut statuses = Vec::new();
    if !is_open {
        statuses.extend([400, 401, 403, 429, 503]);
        if path.contains('{') {
            statuses.push(404);
        }
    }
    if has_body {
        statuses.extend([413, 415, 422]);
    }
    if has_parameter("If-Match") {
        statuses.push(412);
    }
    let Some(Value::Object(responses)) = operation.get_mut("responses") else {
        return;
    };
    for (status, response) in responses.iter_mut() {
        // What a handler says about a refusal of its own gets the shape of all of them.
        let is_refusal = status.starts_with(['4', '5']) && response.get("content").is_none();
        if is_refusal && let Some(response) = response.as_object_mut() {
            let problem = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
            let content = json!({"application/problem+json": problem});
            response.insert("content".to_owned(), content);
        }
    }
    for status in statuses {
        responses.entry(status.to_string()).or_insert_with(
            || json!({"$ref": format!("#/components/responses/{}", name_of(status))}),
        );
    }
}

/// The same value with all keys in order: what a dependency does with the order of keys is not ours to say.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            let members = members.into_iter().map(|(key, value)| (key, sorted(value)));
            Value::Object(members.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    #[test]
    fn the_document_is_the_same_each_time_and_every_reference_leads_somewhere() {
        let document = document();
        assert_eq!(document, super::document());
        assert_eq!(document.to_string(), super::document().to_string());
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        assert!(references.len() > 50);
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    fn collect_references(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    references.push(reference.clone());
                }
                members
                    .values()
                    .for_each(|value| collect_references(value, references));
            }
            Value::Array(items) => items
                .iter()
                .for_each(|item| collect_references(item, references)),
            _ => {}
        }
    }

    #[test]
    fn every_operation_has_a_summary_an_id_of_its_own_and_an_answer() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in document.pointer("/paths").unwrap().as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation.get("operationId").unwrap().as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id}");
                assert!(operation.get("summary").is_some(), "{method} {path}");
                let responses = operation.get("responses").unwrap().as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2')));
            }
        }
        assert!(ids.len() > 50, "{}", ids.len());
    }
}
