//! Frames on `/ws` that are wrong: the socket stays open where the protocol says so, and closes
//! with the right code where it does not.

use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{RawWs, code};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

#[tokio::test]
async fn text_that_is_no_frame_is_an_error_and_the_socket_stays() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    let surrogate = r#"{"type":"\ud800"}"#;
    for (text, expected) in [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ("nope", "INVALID_JSON"),
        ("{\"type\":\"state\"} x", "INVALID_JSON"),
        ("{\"type\":\"step\",\"data\":{\"a\":NaN}}", "INVALID_JSON"),
        ("{\"type\":\"step\",\"data\":{\"a\":Infinity}}", "INVALID_JSON"),
        ("{\"type\":\"state\",}", "INVALID_JSON"),
        ("\u{feff}{}", "INVALID_JSON"),
        ("{}", "UNKNOWN_TYPE"),
        ("{\"type\":null}", "UNKNOWN_TYPE"),
        ("{\"type\":5}", "UNKNOWN_TYPE"),
        ("{\"type\":\"bogus\"}", "UNKNOWN_TYPE"),
        ("{\"type\":\"Step\",\"data\":{}}", "UNKNOWN_TYPE"),
        (surrogate, "UNKNOWN_TYPE"),
        ("{\"type\":\"step\"}", "VALIDATION_ERROR"),
        ("{\"type\":\"step\",\"data\":null}", "VALIDATION_ERROR"),
        ("{\"type\":\"step\",\"data\":[]}", "VALIDATION_ERROR"),
        ("{\"type\":\"step\",\"data\":{},\"extra\":1}", "VALIDATION_ERROR"),
        ("{\"type\":\"state\",\"data\":{}}", "VALIDATION_ERROR"),
        ("{\"type\":\"close\",\"now\":true}", "VALIDATION_ERROR"),
        ("{\"type\":\"reset\",\"data\":[]}", "VALIDATION_ERROR"),
        ("{\"type\":\"reset\",\"data\":{\"seed\":\"x\"}}", "VALIDATION_ERROR"),
        ("{\"type\":\"mcp\"}", "VALIDATION_ERROR"),
        ("{\"type\":\"state\",\"type\":\"state\"}", "VALIDATION_ERROR"),
        ("{\"type\":\"step\",\"data\":{\"type\":\"call_tool\"}}", "VALIDATION_ERROR"),
        ("{\"type\":\"step\",\"data\":{\"type\":\"call_tool\",\"tool_name\":5}}", "VALIDATION_ERROR"),
        ("{\"type\":\"step\",\"data\":{\"do\":1,\"do\":2}}", "VALIDATION_ERROR"),
    ] {
        socket.send_text(text).await;
        let reply = socket.recv().await;
        assert_eq!(code(&reply), expected, "{text}");
        assert!(!reply["data"]["message"].as_str().unwrap().is_empty(), "{text}");
        assert_eq!(expected == "VALIDATION_ERROR", reply["data"]["errors"].is_array(), "{reply}");
    }
    assert_eq!(socket.step(&json!({})).await["data"]["observation"]["count"], 1);
    socket.close().await;
    served.end().await;
}

#[tokio::test]
async fn json_that_is_no_object_closes_the_socket() {
    let served = serve().await;
    for text in ["[]", "\"state\"", "1", "1.5", "null", "true"] {
        let mut socket = served.ws("/ws").await;
        socket.send_text(text).await;
        assert_eq!(code(&socket.recv().await), "SESSION_ERROR", "{text}");
        assert_eq!(socket.closed().await, 1000);
    }
    served.end().await;
}

#[tokio::test]
async fn a_binary_frame_closes_the_socket() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    socket.send_message(Message::binary(br#"{"type":"state"}"#.to_vec())).await;
    assert_eq!(code(&socket.recv().await), "SESSION_ERROR");
    assert_eq!(socket.closed().await, 1000);
    served.end().await;
}

#[tokio::test]
async fn frames_before_a_bad_one_are_answered_first() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    socket.step(&json!({})).await;
    for _ in 0..5 {
        socket.send(&json!({ "type": "step", "data": {} })).await;
    }
    socket.send_message(Message::binary(vec![0])).await;
    for count in 2..=6 {
        assert_eq!(socket.recv().await["data"]["observation"]["count"], count);
    }
    assert_eq!(code(&socket.recv().await), "SESSION_ERROR");
    assert_eq!(socket.closed().await, 1000);
    served.end().await;
}

/// What breaks the WebSocket protocol itself ends the connection, and the close frame says what it was.
#[tokio::test]
async fn what_is_no_websocket_ends_the_connection_with_its_code() {
    let served = serve().await;
    let reserved = [(0x83, &b""[..]), (0x8b, b""), (0xc1, b"{}"), (0xf1, b"{}"), (0x80, b"tail")];
    let control = [(0x09, &b"fragment"[..]), (0x89, &[b'x'; 126])];
    let text = [(0x81, &b"\xff\xfe"[..]), (0x81, b"{\"type\":\"\xc3\x28\"}")];
    let protocol = reserved.into_iter().chain(control).map(|(first, payload)| (first, payload, 1002));
    for (first, payload, code) in protocol.chain(text.map(|(first, payload)| (first, payload, 1007))) {
        for path in ["/ws", "/mcp"] {
            let mut socket = RawWs::connect(served.address, path).await;
            socket.send(first, payload).await;
            assert_eq!(socket.close_code().await, Some(code), "{path} {first:#x} {payload:?}");
        }
        let mut many = RawWs::with_protocol(served.address, "/ws", "oxenv.1").await;
        many.send(first, payload).await;
        assert_eq!(many.close_code().await, Some(code), "oxenv.1 {first:#x} {payload:?}");
    }
    let mut unmasked = RawWs::connect(served.address, "/ws").await;
    tokio::io::AsyncWriteExt::write_all(&mut unmasked.0, b"\x81\x10{\"type\":\"state\"}").await.unwrap();
    assert_eq!(unmasked.close_code().await, Some(1002));
    let mut close = RawWs::connect(served.address, "/ws").await;
    close.send(0x88, b"\x03").await;
    close.close_code().await;
    drop((unmasked, close));
    served.end().await;
}

#[tokio::test]
async fn a_message_may_come_in_pieces_with_pings_between() {
    let served = serve().await;
    let mut socket = RawWs::connect(served.address, "/ws").await;
    let message = json!({ "type": "step", "data": { "do": "note", "text": "é" } }).to_string();
    let (first, last) = message.as_bytes().split_at(message.find('é').unwrap() + 1);
    socket.send(0x01, &first[..5]).await;
    socket.send(0x89, b"ping").await;
    for byte in &first[5..] {
        // A character may be cut in two.
        socket.send(0x00, &[*byte]).await;
    }
    socket.send(0x80, last).await;
    let (mut pong, mut reply) = (None, Value::Null);
    while reply.is_null() {
        match socket.recv().await.unwrap() {
            (0x8a, payload) => pong = Some(payload),
            (0x81, payload) => reply = serde_json::from_slice(&payload).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pong.as_deref(), Some(&b"ping"[..]));
    assert_eq!(reply["type"], "observation", "{reply}");
    assert_eq!(served.stage.notes(), ["é"]);
    drop(socket);
    served.end().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_closes_with_1009() {
    let stage = Stage::default();
    let config = ServerConfig { max_message: 1000, ..ServerConfig::default() };
    let factory = Scripted::new(&stage, Execution::Task);
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let frame = |length: usize| format!("{:length$}", json!({ "type": "step", "data": {} }).to_string());
    for path in ["/ws", "/mcp"] {
        let mut fits = served.ws(path).await;
        fits.send_text(&frame(1000)).await;
        fits.recv().await;
        fits.send_text(&frame(1001)).await;
        assert_eq!(fits.closed().await, 1009, "{path}");
        // In pieces that are small enough each.
        let mut pieces = RawWs::connect(served.address, path).await;
        pieces.send(0x01, &[b'x'; 600]).await;
        pieces.send(0x80, &[b'x'; 600]).await;
        assert_eq!(pieces.close_code().await, Some(1009), "{path}");
        // One whose head alone says so: its body is never sent.
        let mut announced = RawWs::connect(served.address, path).await;
        tokio::io::AsyncWriteExt::write_all(&mut announced.0, b"\x81\xff\0\0\0\xff\0\0\0\0\0\0\0\0")
            .await
            .unwrap();
        assert_eq!(announced.close_code().await, Some(1009), "{path}");
    }
    served.end().await;
}

#[tokio::test]
async fn a_message_of_many_megabytes_goes_through() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    let text = "é".repeat(8 << 20);
    let reply =
        socket.step(&json!({ "type": "call_tool", "tool_name": "say", "arguments": { "text": text } })).await;
    assert_eq!(reply["data"]["observation"]["result"]["data"].as_str().map(str::len), Some(text.len()));
    socket.close().await;
    served.end().await;
}

#[tokio::test]
async fn nesting_without_end_in_a_frame() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    socket.send_text(&"[".repeat(1_000_000)).await;
    assert_eq!(code(&socket.recv().await), "INVALID_JSON");
    let deep = format!(
        "{{\"type\":\"mcp\",\"data\":{{\"jsonrpc\":{}{}}}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    socket.send_text(&deep).await;
    assert_eq!(socket.recv().await["data"]["error"]["code"], -32600);
    let deep = format!(
        "{{\"type\":\"step\",\"data\":{{\"type\":\"call_tool\",\"tool_name\":\"say\",\"arguments\":{}}}}}",
        "[".repeat(100_000)
    );
    socket.send_text(&deep).await;
    assert_eq!(code(&socket.recv().await), "INVALID_JSON");
    socket.close().await;
    served.end().await;
}

/// RFC 6455, section 5.5.1: a close frame is answered by one, with the same code if there is one.
#[tokio::test]
async fn a_close_frame_is_answered() {
    let served = serve().await;
    for path in ["/ws", "/mcp"] {
        for payload in [vec![], 1000_u16.to_be_bytes().to_vec(), 1001_u16.to_be_bytes().to_vec()] {
            let mut socket = RawWs::connect(served.address, path).await;
            socket.send(0x88, &payload).await;
            assert_eq!(socket.recv().await, Some((0x88, payload)), "{path}");
            assert_eq!(socket.recv().await, None);
        }
    }
    served.quiet().await;
    served.end().await;
}
