//! Requests that come twice, three times, or in another order than they were made.

use std::collections::HashMap;
use std::net::SocketAddr;

use oxenv_test_support::tally::{Dice, report, tries};
use oxenv_test_support::{Ws, http, until};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{multi, open};
use crate::served::{Served, serve};

/// Steps that are under way together, and how often each is sent.
const WINDOW: usize = 16;
const COPIES: usize = 3;

/// The road that a copy of a request takes.
#[derive(Clone, Copy, PartialEq)]
enum Road {
    Socket,
    Http,
}

/// A socket of many sessions, one of them, and HTTP beside it.
struct Sender<'a> {
    served: &'a Served,
    socket: Ws,
    session: String,
    sent: usize,
}

impl Sender<'_> {
    /// Sends requests all at once and gives what each got, in their order.
    async fn send(&mut self, requests: &[(Road, Value)]) -> Vec<Value> {
        let mut posts = JoinSet::new();
        let mut places = HashMap::new();
        for (place, (road, request)) in requests.iter().enumerate() {
            match road {
                Road::Socket => {
                    self.sent += 1;
                    places.insert(self.sent, place);
                    let mut frame = request.clone();
                    frame["id"] = json!(self.sent);
                    frame["type"] = json!("step");
                    frame["session"] = json!(self.session);
                    self.socket.send(&frame).await;
                }
                Road::Http => {
                    let (address, path) = (self.served.address, format!("/sessions/{}/step", self.session));
                    let request = request.clone();
                    posts.spawn(async move { (place, posted(address, path, request).await) });
                }
            }
        }
        let mut replies = vec![Value::Null; requests.len()];
        for _ in 0..places.len() {
            let reply = self.socket.recv().await;
            let id = usize::try_from(reply["id"].as_u64().unwrap()).unwrap();
            let place = places.remove(&id).unwrap_or_else(|| panic!("answered twice: {reply}"));
            replies[place] = reply;
        }
        for (place, reply) in posts.join_all().await {
            replies[place] = reply;
        }
        replies
    }
}

/// The same step over HTTP, answered in the words of a socket.
async fn posted(address: SocketAddr, path: String, mut request: Value) -> Value {
    request["action"] = request["data"].take();
    request.as_object_mut().unwrap().remove("data");
    let body = request.to_string();
    let reply = http(address, "POST", &path, &[("content-type", "application/json")], body.as_bytes()).await;
    let said = reply.json();
    match reply.status {
        200 => {
            json!({
                "type": "observation", "data": said, "repeated": reply.header("oxenv-repeated").is_some()
            })
        }
        _ => json!({ "type": "error", "data": said["oxenv"] }),
    }
}

async fn sender(served: &Served) -> Sender<'_> {
    let mut socket = multi(served.address).await;
    let session = open(&mut socket).await;
    Sender { served, socket, session, sent: 0 }
}

async fn end(served: &Served, sender: Sender<'_>) {
    let path = format!("/sessions/{}", sender.session);
    assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
    sender.socket.close().await;
}

/// Numbered requests may come as they like: each is run once, in the order of the numbers.
#[tokio::test]
async fn numbered_steps_that_come_twice_and_in_disorder() {
    let windows = tries(10, 500);
    let served = serve().await;
    let mut sender = sender(&served).await;
    let mut dice = Dice::new(1);
    let (mut sent, mut early, mut repeated) = (0, 0, 0);
    for window in 0..windows {
        let mut open: Vec<(Road, Value)> = Vec::new();
        for seq in window * WINDOW + 1..=(window + 1) * WINDOW {
            let note = json!({ "do": "note", "text": seq.to_string() });
            for copy in 0..COPIES {
                let road = if copy == 0 { Road::Http } else { Road::Socket };
                open.push((road, json!({ "seq": seq, "data": note })));
            }
        }
        while !open.is_empty() {
            dice.shuffle(&mut open);
            sent += open.len();
            let replies = sender.send(&open).await;
            let mut again = Vec::new();
            for (request, reply) in open.into_iter().zip(replies) {
                if reply["type"] == "error" {
                    let why = (&reply["data"]["code"], &reply["data"]["delivered"]);
                    assert_eq!(why, (&json!("STEP_CONFLICT"), &json!("no")), "{reply}");
                    early += 1;
                    again.push(request);
                    continue;
                }
                assert_eq!(reply["data"]["observation"]["count"], request.1["seq"], "{reply}");
                repeated += usize::from(reply["repeated"] == true);
            }
            open = again;
        }
    }
    let steps = windows * WINDOW;
    let notes = served.stage.notes();
    let in_order = (1..=steps).map(|seq| seq.to_string()).eq(notes.iter().cloned());
    assert!(in_order, "not every step was run once and in order: {} for {steps}", notes.len());
    assert_eq!(repeated, steps * (COPIES - 1));
    end(&served, sender).await;
    served.end().await;
    let note = format!(
        "steps sent {COPIES} times each in a random order, {sent} requests in all: each step run once and in \
         order, {repeated} repeats got the first reply, {early} that came too early were refused and sent \
         again"
    );
    report("duplicate and reordered frames", steps, notes.len(), &note);
}

/// One key on two sockets and over HTTP, all at once, while the step may not be done yet.
#[tokio::test]
async fn one_key_on_two_sockets_and_over_http() {
    let tried = tries(100, 5_000);
    let served = serve().await;
    let mut sockets = [multi(served.address).await, multi(served.address).await];
    let session = open(&mut sockets[0]).await;
    let path = format!("/sessions/{session}/step");
    for key in 1..=tried {
        let waits = key.is_multiple_of(2);
        let action = match waits {
            true => json!({ "do": "wait", "at": key.to_string() }),
            false => json!({ "do": "note", "text": key.to_string() }),
        };
        let request = json!({ "key": format!("key {key}"), "data": action });
        let mut frame = request.clone();
        (frame["id"], frame["type"], frame["session"]) = (json!(key), json!("step"), json!(session));
        let [first, second] = &mut sockets;
        first.send(&frame).await;
        if waits {
            served.stage.entered().await;
        }
        // The other socket takes the session, as a client does that has lost its first.
        second.send(&json!({ "id": "a", "type": "attach", "session": session })).await;
        second.send(&frame).await;
        let post = tokio::spawn(posted(served.address, path.clone(), request));
        if waits {
            served.stage.open(&key.to_string());
        }
        let one = answer(first, key).await;
        let two = answer(second, key).await;
        let three = post.await.unwrap();
        let shown = [&one, &two, &three].map(|reply| {
            assert_eq!(reply["type"], "observation", "{reply}");
            // Over HTTP every reward is a float, as stock has it.
            (&reply["data"]["observation"], reply["data"]["reward"].as_f64(), &reply["data"]["done"])
        });
        assert_eq!(shown[0], shown[1]);
        assert_eq!(shown[0], shown[2]);
        let repeats = [&one, &two, &three].into_iter().filter(|reply| reply["repeated"] == true).count();
        assert_eq!(repeats, COPIES - 1);
        sockets.reverse();
    }
    let notes = served.stage.notes();
    let once = (1..=tried).map(|key| key.to_string()).eq(notes.iter().cloned());
    assert!(once, "not every step was run once: {} for {tried}", notes.len());
    assert_eq!(http(served.address, "DELETE", &format!("/sessions/{session}"), &[], b"").await.status, 200);
    for socket in sockets {
        socket.close().await;
    }
    until("nothing is left", || served.active() == 0).await;
    served.end().await;
    let note = "keys sent on two sockets and over HTTP, half of them while the step still ran: each run \
                once, three times the same reply";
    report("repeated keys", tried, notes.len(), note);
}

/// The reply to that frame; what is said of the session's other owners is left out.
async fn answer(socket: &mut Ws, id: usize) -> Value {
    loop {
        let reply = socket.recv().await;
        if reply["id"] == id {
            return reply;
        }
        assert!(matches!(reply["type"].as_str(), Some("attached" | "taken")), "{reply}");
    }
}
