//! What `--help` says, as it was last agreed to.

use crate::support::Place;

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    let commands: [&[&str]; 21] = [
        &[],
        &["serve"],
        &["check"],
        &["verify"],
        &["accounts"],
        &["migrate"],
        &["config"],
        &["keys"],
        &["keys", "create"],
        &["keys", "list"],
        &["keys", "revoke"],
        &["audit"],
        &["audit", "keygen"],
        &["audit", "checkpoint"],
        &["audit", "anchor"],
        &["audit", "export"],
        &["audit", "prove"],
        &["audit", "check"],
        &["audit", "erase"],
        &["stats"],
        &["openapi"],
    ];
    for command in commands {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let ran = place.run(&arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command:?}");
        assert!(ran.out.contains("Example:\n"), "{command:?} has no example");
        assert!(
            ran.out.contains("--json"),
            "{command:?} does not take --json"
        );
    }
}

#[test]
fn the_help_is_as_agreed() {
    let place = Place::new();
    insta::assert_snapshot!("help", place.run(&["--help"]).out);
    insta::assert_snapshot!(
        "help_keys_create",
        place.run(&["keys", "create", "--help"]).out
    );
}

#[test]
fn what_is_no_command_is_misuse() {
    let place = Place::new();
    for arguments in [
        &["serv"][..],
        &["serve", "--prot", "1"],
        &["keys", "create"],
    ] {
        let ran = place.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
        assert!(!ran.err.is_empty());
    }
}
