//! What the documents say is what the code does. `UPDATE_DOCS=1` writes what can be written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use abunfi::config::markdown_table;
use abunfi_server::error::Code;

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[track_caller]
pub(crate) fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start:?}"));
    let (inner, _) = rest.split_once(end).unwrap_or_else(|| panic!("no {end:?}"));
    inner
}

#[test]
fn the_tables_of_settings_are_those_of_the_code() {
    const START: &str = "<!-- settings: start -->\n";
    const END: &str = "<!-- settings: end -->";
    for (name, only_main) in [("README.md", true), ("docs/configuration.md", false)] {
        let path = repository().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let (there, table) = (between(&text, START, END), markdown_table(only_main));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let old = format!("{START}{there}{END}");
            fs::write(
                &path,
                text.replacen(&old, &format!("{START}{table}{END}"), 1),
            )
            .unwrap();
        } else {
            assert_eq!(
                there, table,
                "{name}: UPDATE_DOCS=1 cargo test -p abunfi-cli docs"
            );
        }
    }
}

#[test]
fn every_error_code_has_its_page_and_every_page_its_code() {
    let folder = repository().join("docs/errors");
    let mut pages: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(pages.remove("README.md") && pages.remove("validation-faults.md"));
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    for code in Code::ALL {
        let (name, status) = (code.as_str(), code.status().as_u16());
        let page = format!("{name}.md");
        assert!(pages.remove(&page), "docs/errors/{page} is missing");
        let text = fs::read_to_string(folder.join(&page)).unwrap();
        for part in [
            format!("# `{name}`\n\n**{status}** · {}\n", code.title()),
            "\n## When\n".to_owned(),
            "\n## What to do\n".to_owned(),
            format!("\"status\": {status}"),
            format!("\"code\": \"{name}\""),
        ] {
            assert!(text.contains(&part), "docs/errors/{page} lacks {part:?}");
        }
        let row = format!("| {status} | [`{name}`]({page}) | {} |", code.title());
        assert!(index.contains(&row), "docs/errors/README.md lacks {row}");
    }
    assert!(pages.is_empty(), "no code has these: {pages:?}");
}

#[test]
fn every_fault_of_a_body_is_on_its_page() {
    use abunfi::validation::FaultCode::{
        BadFormat, NotAllowed, OutOfRange, Required, TooLong, TooManyDecimals, TooShort,
        UnknownField, WrongType,
    };
    let text = fs::read_to_string(repository().join("docs/errors/validation-faults.md")).unwrap();
    for code in [
        Required,
        WrongType,
        UnknownField,
        TooLong,
        TooShort,
        BadFormat,
        OutOfRange,
        TooManyDecimals,
        NotAllowed,
    ] {
        assert!(text.contains(&format!("\n| `{code}` |")), "{code}");
    }
}

#[test]
fn the_example_of_an_environment_names_only_variables_that_exist() {
    let text = fs::read_to_string(repository().join(".env.example")).unwrap();
    let mut named = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
        let Some((name, _)) = line.split_once('=') else {
            continue;
        };
        if name
            .chars()
            .all(|char| char.is_ascii_uppercase() || char == '_')
        {
            let is_setting = abunfi::config::SETTINGS.iter().any(|s| s.variable == name);
            assert!(is_setting, "{name} is no setting");
            named += 1;
        }
    }
    assert!(named >= 10, "only {named}");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = repository();
    let mut documents: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .to_vec();
    for folder in ["docs", "docs/errors"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            documents.extend(Some(path).filter(|path| path.extension().is_some_and(|e| e == "md")));
        }
    }
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                let path = document.parent().unwrap().join(file);
                assert!(path.exists(), "{} links to {target}", document.display());
            }
        }
    }
}
