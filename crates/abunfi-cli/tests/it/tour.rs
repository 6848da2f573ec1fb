//! The README's tour, pasted.

mod embedded {
    use std::process::Command;

    use serde_json::Value;

    use crate::docs::{between, repository};
    use crate::support::{Place, Ran};

    #[test]
    fn the_readme_tour_works_when_pasted() {
        let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
        let tour = between(
            &readme,
            "<!-- tour: start -->\n```sh\n",
            "```\n<!-- tour: end -->",
        );
        let place = Place::new();
        let service = place.serve();
        // The one line that a reader with another port would change.
        let address = "ABUNFI=http://127.0.0.1:3001\n";
        assert!(tour.contains(address), "the tour says where the service is");
        let tour = tour.replace(address, &format!("ABUNFI=http://{}\n", service.address));
        // As in a shell: one command that fails does not end the rest, but the test sees it.
        let output = Command::new("bash")
            .args(["-c", &tour])
            .current_dir(place.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .output()
            .unwrap();
        let ran = Ran::of(output);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        let answers: Vec<Value> = ran
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        let [health, made, deposit, again, refused, dashboard, history] = &answers[..] else {
            panic!("{} answers: {}", answers.len(), ran.out);
        };
        assert_eq!(health["status"], "OK");
        assert_eq!(made["name"], "An");
        assert_eq!(made["balances"][0]["total"], "0");
        assert_eq!(deposit["status"], "confirmed");
        assert_eq!(deposit["balance"]["available"], "1500000");
        assert_eq!(again, deposit, "sent twice, done once, answered the same");
        assert_eq!(refused["code"], "insufficient_funds");
        assert_eq!(refused["available"], "1500000");
        assert_eq!(dashboard["user"]["id"], made["id"]);
        assert_eq!(dashboard["balances"][0]["available"], "1500000");
        assert_eq!(dashboard["transactions"].as_array().unwrap().len(), 1);
        let trail = history["data"].as_array().unwrap();
        assert!(
            trail
                .iter()
                .any(|row| row["transaction_id"] == deposit["id"]),
            "{history}"
        );
    }
}
