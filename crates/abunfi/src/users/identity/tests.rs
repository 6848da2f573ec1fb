#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn code<T: fmt::Debug>(result: Result<T, Invalid>) -> &'static str {
    result.unwrap_err().code.as_str()
}

#[test]
fn an_address_is_kept_as_given_and_compared_without_case() {
    let email = Email::parse("An.Nguyễn+App@Example.COM").unwrap();
    assert_eq!(email.to_string(), "An.Nguyễn+App@Example.COM");
    assert_eq!(email.key(), "an.nguyễn+app@example.com");
    let sigma =
        ["ΟΔΟΣ@x.gr", "οδος@x.gr", "οδοσ@X.GR"].map(|text| Email::parse(text).unwrap().key());
    assert!(sigma.iter().all(|key| *key == "οδοσ@x.gr"));
}

#[test]
fn what_is_no_address_is_refused() {
    let long_local = format!("{}@x.vn", "a".repeat(65));
    let long_label = format!("a@{}.vn", "b".repeat(64));
    for bad in [
        "",
        "@",
        "a",
        "a@",
        "@x.vn",
        "a@b@x.vn",
        "a@x",
        "a@.vn",
        "a@x.",
        "a@x..vn",
        "a b@x.vn",
        " a@x.vn",
        "a@x.vn ",
        "a@x.vn\n",
        "a\0@x.vn",
        "a@-x.vn",
        "a@x-.vn",
        "a@x_y.vn",
        "<a@x.vn>",
        "a@[1.2.3.4]",
        "\"a\"@x.vn",
        "a,b@x.vn",
        "a\u{a0}b@x.vn",
        &long_label,
    ] {
        assert_eq!(code(Email::parse(bad)), "bad_format", "{bad:?}");
    }
    assert_eq!(code(Email::parse(&long_local)), "too_long");
    let of_length = |bytes: usize| {
        format!(
            "a@{}.{}",
            vec!["b".repeat(49); 5].join("."),
            "c".repeat(bytes - 252)
        )
    };
    assert!(Email::parse(&of_length(254)).is_ok());
    assert_eq!(code(Email::parse(&of_length(255))), "too_long");
}

#[test]
fn the_examples_of_eip_55_hold_and_one_wrong_letter_is_refused() {
    for text in [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
    ] {
        let address = WalletAddress::parse(text).unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(address.key(), text.to_lowercase());
        assert_eq!(WalletAddress::parse(&text.to_lowercase()).unwrap(), address);
        assert_eq!(
            WalletAddress::parse(&format!("0x{}", text[2..].to_uppercase())).unwrap(),
            address
        );
    }
    assert_eq!(
        code(WalletAddress::parse(
            "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
        )),
        "bad_format"
    );
    for bad in [
        "",
        "0x",
        "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0X5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
        "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae",
        "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaedd",
        "0xg aeb6053f3e94c9b9a09f33669435e7ef1beaed",
    ] {
        assert_eq!(code(WalletAddress::parse(bad)), "bad_format", "{bad:?}");
    }
}

#[test]
fn phones_are_e164_and_a_blank_is_a_plus_only_in_a_look_up() {
    assert_eq!(
        Phone::parse("+84901234567").unwrap().as_str(),
        "+84901234567"
    );
    for bad in [
        "",
        "+",
        "84901234567",
        "+0901234567",
        "+123456",
        "+1234567890123456",
        "+84 901234567",
        " 84901234567",
        "+8490123456٣",
    ] {
        assert_eq!(code(Phone::parse(bad)), "bad_format", "{bad:?}");
    }
    assert_eq!(
        Phone::parse_lookup(" 84901234567"),
        Phone::parse("+84901234567")
    );
    assert_eq!(
        Phone::parse_lookup("+84901234567"),
        Phone::parse("+84901234567")
    );
    for bad in ["  84901234567", " +84901234567", "84901234567"] {
        assert!(Phone::parse_lookup(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_social_account_is_an_object_in_json_and_one_text_in_a_look_up() {
    let social = SocialId::parse("google:12:3").unwrap();
    assert_eq!(
        social,
        SocialId::new(SocialProvider::Google, "12:3").unwrap()
    );
    assert_eq!(
        serde_json::to_value(&social).unwrap(),
        json!({"provider": "google", "id": "12:3"})
    );
    assert_eq!(
        serde_json::from_value::<SocialId>(json!({"provider": "google", "id": "12:3"})).unwrap(),
        social
    );
    assert!(serde_json::from_value::<SocialId>(json!({"provider": "google", "id": ""})).is_err());
    for (bad, why) in [
        ("google", "bad_format"),
        ("Google:1", "not_allowed"),
        ("x:1", "not_allowed"),
        ("apple:", "too_short"),
        ("apple:a\n", "bad_format"),
    ] {
        assert_eq!(code(SocialId::parse(bad)), why, "{bad:?}");
    }
    assert!(SocialId::new(SocialProvider::Apple, &"ă".repeat(255)).is_ok());
    assert_eq!(
        code(SocialId::new(SocialProvider::Apple, &"ă".repeat(256))),
        "too_long"
    );
}

#[test]
fn names_are_counted_in_characters_and_kept_as_given() {
    assert_eq!(
        Name::parse(" Nguyễn Văn An ").unwrap().as_str(),
        " Nguyễn Văn An "
    );
    assert!(Name::parse(&"ễ".repeat(200)).is_ok());
    assert_eq!(code(Name::parse(&"ễ".repeat(201))), "too_long");
    for (bad, why) in [
        ("", "too_short"),
        (" \u{a0}", "too_short"),
        ("a\tb", "bad_format"),
        ("a\u{85}b", "bad_format"),
    ] {
        assert_eq!(code(Name::parse(bad)), why, "{bad:?}");
    }
}

#[test]
fn referral_codes_are_read_in_either_case_and_shown_in_capitals() {
    assert_eq!(
        ReferralCode::parse("k7m2q9xa").unwrap().to_string(),
        "K7M2Q9XA"
    );
    for bad in [
        "",
        "K7M2Q9X",
        "K7M2Q9XAA",
        "K7M2Q9X0",
        "K7M2Q9XO",
        "K7M2Q9X1",
        "K7M2Q9XI",
        "K7M2Q9XL",
        "K7M2Q9X ",
        "K7M2Q9Xß",
    ] {
        assert_eq!(code(ReferralCode::parse(bad)), "bad_format", "{bad:?}");
    }
    assert_eq!(ReferralCode::ALPHABET.len(), 31);
    assert_eq!(ReferralCode::from_random([0; 8]).to_string(), "AAAAAAAA");
    assert_ne!(
        ReferralCode::from_random([1; 8]),
        ReferralCode::from_random([2; 8])
    );
}

#[test]
fn kinds_are_named_as_fields_and_give_the_keys_of_look_ups() {
    for kind in IdentityKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    for (kind, text, key) in [
        (IdentityKind::Email, "A@X.vn", "a@x.vn"),
        (IdentityKind::Phone, " 84901234567", "+84901234567"),
        (IdentityKind::Social, "apple:X", "apple:X"),
        (IdentityKind::ReferralCode, "k7m2q9xa", "K7M2Q9XA"),
    ] {
        assert_eq!(kind.key(text).as_deref(), Ok(key));
    }
}

#[test]
fn json_is_text_and_is_checked_when_read() {
    let email: Email = serde_json::from_value(json!("A@x.vn")).unwrap();
    assert_eq!(serde_json::to_value(&email).unwrap(), "A@x.vn");
    assert!(serde_json::from_value::<Email>(json!("A")).is_err());
    assert!(serde_json::from_value::<Name>(json!(5)).is_err());
}

proptest! {
    #[test]
    fn an_address_has_one_key_in_any_case(local in "[a-zà-öø-ýđăơưạ-ỹα-ω0-9.+_-]{1,12}", domain in "[a-z0-9]{1,8}(\\.[a-z]{2,4}){1,2}") {
        let text = format!("{local}@{domain}");
        let email = Email::parse(&text).unwrap();
        prop_assert_eq!(email.as_str(), &text);
        prop_assert_eq!(Email::parse(&text.to_uppercase()).unwrap().key(), email.key());
        prop_assert_eq!(Email::parse(&email.key()).unwrap().key(), email.key());
    }

    #[test]
    fn a_wallet_address_survives_its_text_and_its_key(bytes in any::<[u8; 20]>()) {
        let address = WalletAddress(bytes);
        prop_assert_eq!(WalletAddress::parse(&address.to_string()), Ok(address));
        prop_assert_eq!(WalletAddress::parse(&address.key()), Ok(address));
    }

    #[test]
    fn every_random_code_is_a_code(random in any::<[u8; 8]>()) {
        let code = ReferralCode::from_random(random);
        prop_assert_eq!(ReferralCode::parse(&code.to_string()), Ok(code));
        prop_assert_eq!(ReferralCode::parse(&code.to_string().to_lowercase()), Ok(code));
    }

    #[test]
    fn any_text_is_read_as_it_is_or_refused(text in "\\PC{0,20}|[+ a-z@.:0-9]{0,20}") {
        if let Ok(phone) = Phone::parse(&text) { prop_assert_eq!(phone.as_str(), &text); }
        if let Ok(social) = SocialId::parse(&text) { prop_assert_eq!(social.to_string(), text.clone()); }
        if let Ok(name) = Name::parse(&text) { prop_assert_eq!(name.as_str(), &text); }
        let _ = (WalletAddress::parse(&text), ReferralCode::parse(&text), Email::parse(&text));
    }
}
