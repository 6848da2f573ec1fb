//! What holds for every request: ids, headers, bodies, routes.

use std::time::{Duration, Instant};

use abunfi::ledger::Page;
use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Seed, TestServer, on_every_backend, with_config};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn ids_are_taken_echoed_and_stored(server: &TestServer) {
    let given = server
        .get("users")
        .header("x-request-id", "my-id/1")
        .expect(200)
        .await;
    assert_eq!(given.header("x-request-id"), Some("my-id/1"));
    assert!(given.header("traceparent").is_none());
    let traced = server
        .get("users")
        .header("traceparent", TRACE)
        .expect(200)
        .await;
    assert_eq!(traced.header("traceparent"), Some(TRACE));
    let longest = "x".repeat(128);
    let long = server
        .get("users")
        .header("x-request-id", &longest)
        .expect(200)
        .await;
    assert_eq!(long.header("x-request-id"), Some(longest.as_str()));
    for bad in ["", "a b", &"x".repeat(129), "t\u{e9}"] {
        let replaced = server
            .get("users")
            .header("x-request-id", bad)
            .expect(200)
            .await;
        let id = replaced.header("x-request-id").unwrap();
        assert!(id.len() == 36 && id != bad, "{id}");
    }
    let refused = server
        .get("/nowhere")
        .header("x-request-id", "lost")
        .expect_problem(404, "not_found")
        .await;
    assert_eq!(refused.text_at("/request_id"), "lost");
    assert_eq!(refused.header("x-request-id"), Some("lost"));
    let user = server.user().await;
    let body = json!({"type": "deposit", "amount": "1"});
    let call = server
        .post(&format!("users/{user}/transactions"))
        .key("k")
        .json(&body);
    call.header("traceparent", TRACE).expect(201).await;
    let trail = server
        .get(&format!("users/{user}/history"))
        .expect(200)
        .await;
    assert_eq!(
        trail.at("/data/0/request_id"),
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "found from the trace"
    );
}

async fn a_trace_is_echoed_and_stored_with_audit_rows_whatever_the_requests_id(
    server: &TestServer,
) {
    let user = server.user().await;
    let deposit = server
        .post(&format!("users/{user}/transactions"))
        .key("traced")
        .json(&json!({"type": "deposit", "amount": "1"}))
        .header("x-request-id", "mine")
        .header("traceparent", TRACE);
    let posted = deposit.expect(201).await;
    assert_eq!(posted.header("traceparent"), Some(TRACE));
    let kyc = server
        .put(&format!("users/{user}/kyc"))
        .json(&json!({"status": "verified"}))
        .header("x-request-id", "mine")
        .header("traceparent", TRACE);
    kyc.expect(200).await;
    server
        .patch(&format!("users/{user}"))
        .json(&json!({"status": "suspended"}))
        .expect(200)
        .await;
    let page = Page {
        after: None,
        limit: 10,
    };
    let ledger = server.platform.ledger();
    let rows = ledger.history(user.parse().unwrap(), None, &page).await;
    let rows = rows.unwrap().unwrap();
    let stored: Vec<_> = rows
        .iter()
        .map(|row| {
            let entry = &row.entry;
            assert_eq!(entry.hash, entry.computed_hash(), "the hash is as ever");
            (entry.action.as_ref(), entry.trace_id.as_deref())
        })
        .collect();
    let trace = Some("4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(
        stored,
        [("status", None), ("kyc", trace), ("post_deposit", trace)]
    );
    assert!(rows[1..].iter().all(|row| *row.entry.request_id == *"mine"));
}

async fn every_answer_is_safe_to_show(server: &TestServer) {
    for path in ["users", "/nowhere", "/health", "/docs/", "/openapi.json"] {
        let answer = server.get(path).send().await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'none'")
        );
        assert!(answer.header("server").is_none());
        assert!(
            answer.header("access-control-allow-origin").is_none(),
            "CORS is off"
        );
    }
    let preflight = server
        .call(Method::OPTIONS, "users")
        .by_nobody()
        .header("origin", "https://a.example");
    let preflight = preflight.header("access-control-request-method", "GET");
    preflight.expect_problem(405, "method_not_allowed").await;
}

async fn unknown_routes_and_methods_are_problems(server: &TestServer) {
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "nothing",
        "users/",
        "/api/v2/users",
        "/docs/nothing.js",
        "/stats",
    ] {
        server.get(path).expect_problem(404, "not_found").await;
        server
            .get(path)
            .by_nobody()
            .expect_problem(404, "not_found")
            .await;
    }
    for (method, path, allowed) in [
        (Method::DELETE, "users", vec!["GET", "HEAD", "POST"]),
        (Method::PUT, "users", vec!["GET", "HEAD", "POST"]),
        (Method::POST, "/health", vec!["GET", "HEAD"]),
        (Method::GET, "transactions/batch", vec!["POST"]),
        (Method::TRACE, "stats", vec!["GET", "HEAD"]),
    ] {
        let refused = server
            .call(method, path)
            .expect_problem(405, "method_not_allowed")
            .await;
        let mut allow: Vec<_> = refused
            .header("allow")
            .unwrap()
            .split(',')
            .map(str::trim)
            .collect();
        allow.sort_unstable();
        assert_eq!(allow, allowed, "{path}");
    }
    let head = server.call(Method::HEAD, "users").expect(200).await;
    assert!(head.body.is_empty());
    let odd = server.call(Method::from_bytes(b"BREW").unwrap(), "users");
    odd.expect_problem(405, "method_not_allowed").await;
}

async fn bodies_that_are_not_json_are_refused(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/metadata");
    let put = |body: Vec<u8>| server.put(&address).text(body);
    for bad in [
        &b""[..],
        b" ",
        b"{",
        b"{\"a\":1,}",
        b"{'a':1}",
        b"{\"a\":01}",
        b"{\"a\":NaN}",
        b"{\"a\":1}{}",
        b"nul",
        b"\xff\xfe",
        b"{\"a\":\"\xc3\x28\"}",
        b"{\"a\":\"\t\"}",
        b"{\"a\":\"\\ud800\"}",
        b"{\"a\":\"\\udc00\\ud800\"}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":1,\"a\":2}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\0\"}",
    ] {
        put(bad.to_vec())
            .expect_problem(400, "malformed_json")
            .await;
    }
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [41, 10_000] {
            let body = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            put(body.into_bytes()).expect_problem(400, "too_deep").await;
        }
        let unclosed = open.repeat(100_000);
        put(unclosed.into_bytes())
            .expect_problem(400, "too_deep")
            .await;
    }
    let at_the_limit = format!("{{\"a\":{}1{}}}", "[".repeat(39), "]".repeat(39));
    put(at_the_limit.into_bytes())
        .expect_problem(422, "validation_failed")
        .await;
    // Bombs: many keys, many numbers, long numbers, many escapes.
    let keys: String = (0..60_000).map(|index| format!("\"{index}\":1,")).collect();
    let bombs = [
        format!("{{{keys}\"x\":1}}"),
        format!("[{}1]", "1,".repeat(500_000)),
        format!("{{\"a\":{}}}", "9".repeat(1_000_000)),
        format!("{{\"a\":1e{}}}", "9".repeat(1_000_000)),
        format!("{{\"a\":\"{}\"}}", "\\u0000".repeat(170_000)),
        format!("[{}{{}}]", "[],".repeat(300_000)),
    ];
    for bomb in bombs {
        let refused = tokio::time::timeout(
            Duration::from_secs(10),
            put(bomb.clone().into_bytes()).send(),
        );
        let refused = refused.await.expect("in good time");
        assert!(
            refused.status.is_client_error(),
            "{:.40}: {}",
            bomb,
            refused.status
        );
        assert!(refused.body.len() < 64 * 1024, "a small answer");
    }
}

async fn bodies_have_a_size_and_a_type(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/metadata");
    let megabyte = 1024 * 1024;
    let of_size = |size: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(size - 8));
    let put = server.put(&address).text(of_size(megabyte));
    put.expect_problem(422, "validation_failed").await;
    for size in [megabyte + 1, 5 * megabyte] {
        server
            .put(&address)
            .text(of_size(size))
            .expect_problem(413, "body_too_large")
            .await;
        // Without a length given in front.
        let chunks: Vec<std::io::Result<_>> = of_size(size)
            .into_bytes()
            .chunks(64 * 1024)
            .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = reqwest::Body::wrap(StreamBody::new(futures::stream::iter(chunks)));
        server
            .put(&address)
            .text(body)
            .expect_problem(413, "body_too_large")
            .await;
        // Even where nobody was going to read it.
        let call = server.put(&address).by_nobody().text(of_size(size));
        call.expect_problem(401, "unauthenticated").await;
        let call = server.post("users").text(of_size(size));
        call.expect_problem(413, "body_too_large").await;
    }
    let batch = |size: usize| {
        server
            .post("transactions/batch")
            .key("k")
            .text(of_size(size))
    };
    batch(4 * megabyte)
        .expect_problem(422, "validation_failed")
        .await;
    batch(4 * megabyte + 1)
        .expect_problem(413, "body_too_large")
        .await;
    for content_type in [
        "text/plain",
        "application/jsonx",
        "application/json; charset=latin1",
        "x",
        "application/x-www-form-urlencoded",
    ] {
        let put = server.put(&address).typed(content_type, "{}");
        put.expect_problem(415, "unsupported_media_type").await;
    }
    let put = server
        .put(&address)
        .typed("application/json; charset=utf-8", "{}");
    put.expect(200).await;
    let zipped = server
        .put(&address)
        .header("content-encoding", "gzip")
        .text("{}");
    zipped.expect_problem(415, "unsupported_media_type").await;
    let untyped = server
        .call(Method::PUT, &address)
        .header("content-length", "2");
    let url = format!("http://{}/api/v1/{address}", server.address);
    drop(untyped);
    let untyped = server
        .client
        .put(url)
        .bearer_auth(&server.admin)
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(untyped.status(), 415);
}

async fn nul_reaches_no_store(server: &TestServer) {
    let user = server.user().await;
    for path in [
        "users?email=a%00@b.co",
        "users?social=google:%00",
        "logs?q=%00",
        "logs?target=a%00",
        "dev-data/a?prefix=%00",
        "users?cursor=%00",
        "ledger/trial-balance?x=%00",
    ] {
        server
            .get(path)
            .expect_problem(400, "invalid_parameter")
            .await;
    }
    for path in [
        "dev-data/a/%00",
        "temp/%00",
        "assets/%00",
        "users/%00",
        "dev-data/%00",
    ] {
        server.get(path).expect_problem(404, "not_found").await;
    }
    server
        .delete("cache?tag=%00")
        .expect_problem(400, "invalid_parameter")
        .await;
    let nul = "a\u{0}b";
    for (path, body) in [
        (
            "users".to_owned(),
            json!({"email": "a\u{0}@b.co", "name": nul}),
        ),
        (
            "users".to_owned(),
            json!({"email": "a@b.co", "name": "x", "social": {"provider": "google", "id": nul}}),
        ),
        (
            "users".to_owned(),
            json!({"email": "a@b.co", "name": "x", "metadata": {"a": nul}}),
        ),
        (format!("users/{user}/sessions"), json!({"device": nul})),
        ("rate-limits/login/check".to_owned(), json!({"key": nul})),
        (
            "logs".to_owned(),
            json!({"level": "info", "target": nul, "message": "m"}),
        ),
        (
            "logs".to_owned(),
            json!({"level": "info", "target": "t", "message": "m", "fields": {"a": nul}}),
        ),
        (
            format!("users/{user}/transactions"),
            json!({"type": "deposit", "amount": "1", "client_reference": nul}),
        ),
        (
            format!("users/{user}/transactions"),
            json!({"type": "deposit", "amount": "1", "metadata": {"a": nul}}),
        ),
    ] {
        let call = server.post(&path).key("k").json(&body);
        call.expect_problem(422, "validation_failed").await;
    }
    let put = server
        .put("temp/a")
        .json(&json!({"value": nul, "ttl": 60}))
        .send()
        .await;
    assert!(put.status.as_u16() < 500, "{}", put.text());
}

async fn large_answers_are_compressed_for_who_asks(server: &TestServer) {
    let user = server.user().await;
    let large = json!({"text": "x".repeat(100_000)});
    server
        .put(&format!("users/{user}/metadata"))
        .json(&large)
        .expect(200)
        .await;
    let address = format!("users/{user}");
    let plain = server.get(&address).expect(200).await;
    assert!(plain.header("content-encoding").is_none());
    let zipped = server
        .get(&address)
        .header("accept-encoding", "gzip")
        .expect(200)
        .await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.header("vary").unwrap().contains("accept-encoding"));
    assert!(zipped.body.len() * 10 < plain.body.len());
    let small = server
        .get("assets/VND")
        .header("accept-encoding", "gzip")
        .expect(200)
        .await;
    assert!(small.header("content-encoding").is_none());
}

async fn the_documentation_works_without_the_internet(server: &TestServer) {
    let document = server.get("/openapi.json").by_nobody().expect(200).await;
    assert_eq!(document.json(), abunfi_server::openapi());
    assert_eq!(document.at("/openapi"), "3.1.0");
    server.get("/docs").by_nobody().expect(303).await;
    let page = server.get("/docs/").by_nobody().expect(200).await;
    let text = page.text();
    assert!(
        !text.contains("http://") && !text.contains("https://"),
        "{text}"
    );
    assert!(
        !text.contains("<script>"),
        "the policy allows no inline script"
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'self'"));
    let mut loaded = 0;
    for reference in ["src=\"", "href=\""] {
        for rest in text.split(reference).skip(1) {
            let file = rest.split('"').next().unwrap().trim_start_matches("./");
            server
                .get(&format!("/docs/{file}"))
                .by_nobody()
                .expect(200)
                .await;
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "{text}");
    let start = server
        .get("/docs/swagger-initializer.js")
        .by_nobody()
        .expect(200)
        .await;
    assert!(start.text().contains("/openapi.json"), "{}", start.text());
    server
        .get("/docs/nothing.js")
        .by_nobody()
        .expect_problem(404, "not_found")
        .await;
}

async fn no_answer_holds_a_secret_and_no_route_a_500(server: &TestServer) {
    let odd = [
        "%",
        "%zz",
        "..%2f..%2fetc%2fpasswd",
        "a;drop table users",
        "%F0%9F%92%A9",
        "null",
        "-1",
        "*",
    ];
    for value in odd {
        for path in [
            format!("users/{value}"),
            format!("users?email={value}"),
            format!("users?cursor={value}"),
            format!("assets/{value}"),
            format!("dev-data/{value}/{value}"),
            format!("temp/{value}"),
            format!("logs?q={value}"),
            format!("users?social=google:{value}"),
            format!("users?limit={value}"),
        ] {
            let answer = server
                .get(&path)
                .header("if-none-match", value)
                .send()
                .await;
            assert!(answer.status.as_u16() < 500, "{path}: {}", answer.text());
            assert!(!answer.text().contains(&server.admin));
        }
    }
}

/// Sends `text` as it is and reads what comes until the end.
async fn raw(server: &TestServer, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
    let _until_closed = read.await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn a_body_that_is_cut_short_does_nothing(server: &TestServer) {
    let before = server.get("users").expect(200).await.json();
    let head = format!(
        "POST /api/v1/users HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 1000\r\n\r\n{{\"email\": \"cut@example.com\"",
        server.admin
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.get("users").expect(200).await.json(), before);
    let broken = raw(server, "GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n").await;
    assert!(broken.starts_with("HTTP/1.1 400"), "{broken}");
}

async fn a_slow_body_meets_the_time_limit(server: &TestServer) {
    let head = format!(
        "POST /api/v1/users HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        server.admin
    );
    let answer = raw(server, &head).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("\"store_unavailable\""),
        "certainly not done: {answer}"
    );
    assert!(answer.to_lowercase().contains("retry-after: "));
}

async fn a_full_service_says_so_and_still_answers_probes(server: &TestServer) {
    let head = format!(
        "POST /api/v1/users HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        server.admin
    );
    // Two fill it; one that comes while another request has its place is itself turned away.
    let mut held = Vec::new();
    let refused = loop {
        assert!(held.len() < 6, "two at once are the bound");
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let answer = server.get("users").send().await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert!(held.len() >= 2, "one alone does not fill it");
    refused.check_problem(503, "overloaded", "a full service");
    for probe in ["/health", "/livez", "/readyz", "/metrics"] {
        server.get(probe).expect(200).await;
    }
    drop(held);
    let end = Instant::now() + Duration::from_secs(20);
    while server.get("users").send().await.status != 200 {
        assert!(Instant::now() < end, "it is still full");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn configured_origins_may_ask(server: &TestServer) {
    let preflight = |origin: &str| {
        server
            .call(Method::OPTIONS, "users")
            .by_nobody()
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "idempotency-key")
    };
    let allowed = preflight("https://app.example").expect(200).await;
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let other = preflight("https://evil.example").send().await;
    assert!(other.header("access-control-allow-origin").is_none());
    let refused = server
        .get("users")
        .by_nobody()
        .header("origin", "https://app.example");
    let refused = refused.expect_problem(401, "unauthenticated").await;
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let exposed = refused.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("x-request-id"), "{exposed}");
}

async fn the_shape_of_a_problem_is_fixed(server: &TestServer) {
    let refused = server
        .get("/nowhere")
        .header("x-request-id", "r")
        .expect_problem(404, "not_found")
        .await;
    let expected: Value = json!({
        "type": "urn:abunfi:problem:not_found", "title": "There is no such thing", "status": 404,
        "detail": "there is nothing at this address", "code": "not_found", "request_id": "r",
    });
    assert_eq!(refused.json(), expected);
}

async fn a_body_that_is_no_object_has_one_fault(server: &TestServer) {
    for body in [json!([1]), json!("x"), json!(null)] {
        let refused = server.post("users").json(&body);
        let refused = refused.expect_problem(422, "validation_failed").await;
        let faults = refused.at("/errors");
        assert_eq!(faults.as_array().unwrap().len(), 1, "{faults}");
        assert_eq!(faults[0]["pointer"], "");
        assert_eq!(faults[0]["code"], "wrong_type");
    }
}

on_every_backend!(
    a_body_that_is_no_object_has_one_fault,
    a_trace_is_echoed_and_stored_with_audit_rows_whatever_the_requests_id,
    ids_are_taken_echoed_and_stored,
    every_answer_is_safe_to_show,
    unknown_routes_and_methods_are_problems,
    bodies_that_are_not_json_are_refused,
    bodies_have_a_size_and_a_type,
    nul_reaches_no_store,
    large_answers_are_compressed_for_who_asks,
    the_documentation_works_without_the_internet,
    no_answer_holds_a_secret_and_no_route_a_500,
    a_body_that_is_cut_short_does_nothing,
    the_shape_of_a_problem_is_fixed,
);

with_config!(hurried, |config| config.http.request_timeout_ms = 500; a_slow_body_meets_the_time_limit);
with_config!(narrow, |config| config.http.max_concurrent_requests = 2; a_full_service_says_so_and_still_answers_probes);
with_config!(cors, |config| config.http.cors_origins = vec!["https://app.example".to_owned()]; configured_origins_may_ask);
