//! What may be shown of a value that holds a secret. In doubt too little is shown.

/// A part of a query's key that makes its value a secret.
const SECRET_PARAMETERS: [&str; 6] = ["pass", "secret", "token", "credential", "properties", "key"];

/// A secret: nothing of it but its length, which helps to see what went wrong with a short one.
pub(super) fn secret(given: &str) -> String {
    format!("*** ({} characters)", given.chars().count())
}

/// A URL without its password, without user names that stand alone (they may be tokens), and without the
/// values of parameters that sound like secrets. What is no URL at all is not shown.
///
/// Credentials end at the *last* `@`, since passwords are often pasted without being escaped.
pub(super) fn url(given: &str) -> String {
    let Some((scheme, rest)) = given.split_once("://") else {
        return secret(given);
    };
    let (credentials, rest) = match rest.rsplit_once('@') {
        None => (String::new(), rest),
        Some((credentials, rest)) => match credentials.split_once(':') {
            Some((user, _password)) => (format!("{user}:***@"), rest),
            None => ("***@".to_owned(), rest),
        },
    };
    match rest.split_once('?') {
        None => format!("{scheme}://{credentials}{rest}"),
        Some((address, query)) => {
            let query: Vec<_> = query.split('&').map(parameter).collect();
            format!("{scheme}://{credentials}{address}?{}", query.join("&"))
        }
    }
}

fn parameter(given: &str) -> String {
    match given.split_once('=') {
        Some((name, _value)) if is_secret(name) => format!("{name}=***"),
        _ => given.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARAMETERS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        for (given, shown) in [
            (
                "postgresql://u:hunter2@db:5432/abunfi",
                "postgresql://u:***@db:5432/abunfi",
            ),
            (
                "postgresql://u:hun@ter/2?@db/abunfi",
                "postgresql://u:***@db/abunfi",
            ),
            ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
            ("redis://hunter2@cache", "redis://***@cache"),
            ("mysql://u:hunter2@db/x", "mysql://u:***@db/x"),
            (
                "postgresql://db/x?user=u&password=hunter2&sslmode=require",
                "postgresql://db/x?user=u&password=***&sslmode=require",
            ),
            (
                "mongodb://a,b/x?authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
                "mongodb://a,b/x?authMechanismProperties=***",
            ),
            ("sqlite:///var/lib/abunfi.db", "sqlite:///var/lib/abunfi.db"),
            ("hunter2", "*** (7 characters)"),
            ("postgresql:/u:hunter2@db", "*** (24 characters)"),
        ] {
            assert_eq!(url(given), shown);
        }
    }
}
