//! Holds values against the schemas of the OpenAPI document: as much of JSON Schema as that uses.

use serde_json::Value;

/// What is wrong with `value` by `schema`, which belongs to `document`; empty when nothing is. A member that
/// the schema does not name is a fault, unless it allows others: the description must be complete.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        let target = target.unwrap_or_else(|| panic!("{reference} leads nowhere"));
        return faults(document, target, value, at);
    }
    for (keyword, all) in [("oneOf", false), ("anyOf", false), ("allOf", true)] {
        let Some(choices) = schema[keyword].as_array() else {
            continue;
        };
        if all {
            return faults_of_all(document, choices, value, at);
        }
        let found: Vec<_> = choices
            .iter()
            .map(|choice| faults(document, choice, value, at))
            .collect();
        if found.iter().any(Vec::is_empty) {
            return Vec::new();
        }
        return found.into_iter().flatten().collect();
    }
    let mut found = Vec::new();
    if !has_type(&schema["type"], value) {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
        return found;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is not one of {allowed:?}"));
    }
    match value {
        Value::Object(members) => {
            let properties = &schema["properties"];
            for required in schema["required"].as_array().into_iter().flatten() {
                if !members.contains_key(required.as_str().unwrap()) {
                    found.push(format!("{at}: {required} is missing"));
                }
            }
            for (name, member) in members {
                let here = format!("{at}/{name}");
                match (properties.get(name), &schema["additionalProperties"]) {
                    (Some(property), _) => found.extend(faults(document, property, member, &here)),
                    (None, Value::Object(_)) => {
                        let others = &schema["additionalProperties"];
                        found.extend(faults(document, others, member, &here));
                    }
                    (None, Value::Bool(true)) => {}
                    // An object of which nothing is said is free.
                    (None, _) if properties.is_null() => {}
                    (None, _) => found.push(format!("{here} is not described")),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let here = format!("{at}/{index}");
                found.extend(faults(document, &schema["items"], item, &here));
            }
        }
        _ => {}
    }
    found
}

/// Flattened structs: the parts' members together.
fn faults_of_all(document: &Value, parts: &[Value], value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut described = std::collections::BTreeSet::new();
    for part in parts {
        let part = match part["$ref"].as_str() {
            Some(reference) => document
                .pointer(reference.strip_prefix('#').unwrap())
                .unwrap(),
            None => part,
        };
        let names = part["properties"].as_object().into_iter().flatten();
        described.extend(names.map(|(name, _)| name.clone()));
        let mut open = part.clone();
        open["additionalProperties"] = Value::Bool(true);
        found.extend(faults(document, &open, value, at));
    }
    for name in value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        if !described.contains(name) {
            found.push(format!("{at}/{name} is not described"));
        }
    }
    found
}

fn has_type(wanted: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("{other} is no type"),
    };
    match wanted {
        Value::Null => true,
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        other => panic!("{other} is no type"),
    }
}
