//! Examples of the main answers. The contract tests hold each against its schema, and its members against
//! those of a real answer.

use serde_json::{Value, json};

const USER: &str = "019ab1c2-5d3e-7c4f-8a9b-0c1d2e3f4a5b";
const TRANSACTION: &str = "019ab1c2-6e4f-7d50-9bac-1d2e3f4a5b6c";
const SESSION: &str = "019ab1c2-7f50-7e61-acbd-2e3f4a5b6c7d";
const TIME: &str = "2026-11-23T05:09:00.123456Z";

/// Examples by the name of their schema.
pub(super) fn all() -> [(&'static str, Value); 6] {
    [
        ("AnyJson", json!({"enabled": true})),
        ("FreeObject", json!({"plan": "gold"})),
        ("User", user()),
        ("PostedTransaction", posted()),
        ("TokenAndSession", token_and_session()),
        ("Problem", problem()),
    ]
}

fn user() -> Value {
    json!({
        "id": USER, "email": "an@example.com", "name": "An",
        "wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "phone": null, "social": null,
        "status": "active", "kyc": {"status": "pending", "data": {}},
        "referral": {"code": "K7M2Q9XA", "referred_by": null, "count": 0},
        "balances": [{
            "asset": "VND", "available": "0", "locked": "0", "total": "0", "shares": "0", "locked_shares": "0",
            "share_price": "1000000", "total_yield_earned": "0", "last_yield_at": null, "version": 0,
        }],
        "preferences": {
            "language": "vi", "currency": "VND", "notifications": {"email": true, "push": true, "sms": false},
        },
        "metadata": {}, "version": 1, "created_at": TIME, "updated_at": TIME,
    })
}

fn posted() -> Value {
    json!({
        "id": TRANSACTION, "user_id": USER, "type": "deposit", "status": "confirmed", "asset": "VND",
        "amount": "1500000", "shares": "1.5", "expires_at": null, "submitted_at": null,
        "client_reference": "order-1", "tx_hash": null, "block_number": null, "gas_used": null, "gas_fee": null,
        "confirmations": 0, "exchange_rate": null, "amount_vnd": null, "metadata": {}, "error_message": null,
        "balance": {
            "asset": "VND", "available": "1500000", "locked": "0", "total": "1500000", "shares": "1.5",
            "locked_shares": "0", "version": 1,
        },
        "created_at": TIME, "confirmed_at": TIME,
    })
}

fn token_and_session() -> Value {
    json!({
        "token": "abs_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "session": {
            "id": SESSION, "user_id": USER, "device": "Pixel 9", "ip": "203.0.113.7", "created_at": TIME,
            "last_seen_at": TIME, "idle_expires_at": "2026-11-24T05:09:00.123456Z",
            "expires_at": "2026-11-24T05:09:00.123456Z", "current": false,
        },
    })
}

fn problem() -> Value {
    json!({
        "type": "urn:abunfi:problem:validation_failed", "title": "The request is not valid", "status": 422,
        "detail": "the body has a fault", "code": "validation_failed",
        "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "errors": [{
            "pointer": "/amount", "code": "too_many_decimals", "detail": "has more decimals than are kept",
        }],
    })
}
