//! What the trait promises, checked on every provider by the same rules.
//!
//! Invariant: whether something runs is seen by looking at processes or containers, never by asking the
//! provider.

use std::future::Future;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oxenv_providers::{Instance, InstanceSpec, Provider, ProviderCode, ProviderError, SecretText};
use oxenv_test_support::{TempFolder, unique};

use crate::support::{Daemon, get, helper, marked, process_provider, process_spec, until};

const SECRET: &str = "hunter2-and-more";

type Count = dyn Fn() -> Pin<Box<dyn Future<Output = usize>>>;
type Hold = dyn Fn(&str, &str) -> Vec<String>;

/// A provider, what to start with it, and how to see what runs.
struct Subject {
    provider: Box<dyn Provider>,
    /// Whether nobody else can sweep what it starts.
    alone: bool,
    /// How every name begins.
    prefix: String,
    spec: Box<dyn Fn(&str) -> InstanceSpec>,
    count: Box<Count>,
    /// The arguments of the helper that make it start the same and hold it, behind its name.
    hold: Box<Hold>,
}

#[tokio::test]
async fn processes_keep_the_contract() {
    let (notes, mark) = (TempFolder::new("providers"), unique());
    let (at, counted, held) = (notes.path().to_owned(), mark.clone(), mark.clone());
    let subject = Subject {
        provider: Box::new(process_provider(&at)),
        alone: true,
        prefix: format!("p{mark}"),
        spec: Box::new(move |mode| process_spec(mode, &mark)),
        count: Box::new(move || {
            let running = marked(&counted);
            Box::pin(async move { running })
        }),
        hold: Box::new(move |name, mode| {
            let server = crate::support::server().display().to_string();
            vec!["process".into(), at.display().to_string(), name.into(), held.clone(), server, mode.into()]
        }),
    };
    check(&subject).await;
}

#[tokio::test]
async fn containers_keep_the_contract() {
    let Some(daemon) = Daemon::of("containers_keep_the_contract").await else { return };
    let prefix = format!("c{}", unique());
    let daemon: &'static Daemon = Box::leak(Box::new(daemon));
    let counted = prefix.clone();
    let subject = Subject {
        provider: Box::new(daemon.provider.clone()),
        alone: false,
        prefix: prefix.clone(),
        spec: Box::new(|mode| InstanceSpec { name: None, ..daemon.spec(mode, "") }),
        count: Box::new(move || {
            let counted = counted.clone();
            Box::pin(async move { daemon.containers(&counted).await })
        }),
        hold: Box::new(|name, mode| {
            let (host, image) = (daemon.host.clone(), daemon.image.clone());
            vec!["docker".into(), host, name.into(), image, "/server".into(), mode.into()]
        }),
    };
    check(&subject).await;
}

async fn check(subject: &Subject) {
    healthy_and_stopped(subject).await;
    ends_early(subject).await;
    never_healthy(subject).await;
    a_dropped_start(subject).await;
    a_dropped_instance(subject).await;
    a_stubborn_one(subject).await;
    listed_and_stopped_by_others(subject).await;
    detached(subject).await;
    left_behind(subject).await;
    no_secret(subject).await;
}

impl Subject {
    fn named(&self, mode: &str, name: &str) -> InstanceSpec {
        let mut spec = (self.spec)(mode);
        spec.name = Some(format!("{}-{name}", self.prefix));
        spec.stop_grace = Duration::from_secs(2);
        spec
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        self.provider.start(spec).await
    }

    async fn nothing_runs(&self, when: &str) {
        until(&format!("nothing runs {when}"), async || (self.count)().await == 0).await;
    }

    async fn listed(&self) -> Vec<String> {
        let all = self.provider.list().await.unwrap();
        all.into_iter().map(|info| info.name).filter(|name| name.starts_with(&self.prefix)).collect()
    }
}

async fn healthy_and_stopped(subject: &Subject) {
    let instance = subject.start(&subject.named("healthy", "one")).await.unwrap();
    assert_eq!(get(instance.url(), "/health").await, "{}");
    assert_eq!(instance.info().provider, subject.provider.name());
    until("its words are there", async || instance.logs().await.unwrap().contains("out: healthy")).await;
    let again = subject.start(&subject.named("healthy", "one")).await.map(drop).unwrap_err();
    assert_eq!(again.code, ProviderCode::InvalidSpec, "{again}");
    let begun = Instant::now();
    instance.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "it ended by itself when it was asked to");
    assert_eq!((subject.count)().await, 0);
}

async fn ends_early(subject: &Subject) {
    let mut spec = subject.named("exits", "exits");
    spec.env.push(("SECRET".to_owned(), SecretText::new(SECRET)));
    let begun = Instant::now();
    let error = subject.start(&spec).await.map(drop).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "it was waited for");
    assert_eq!(error.code, ProviderCode::InstanceExited, "{error}");
    assert!(error.message.contains("exited with code 3"), "{error}");
    let logs = error.logs.clone().unwrap();
    assert!(logs.contains("out: exits ***") && logs.contains("err: exits ***"), "{logs}");
    subject.nothing_runs("after an early end").await;
}

async fn never_healthy(subject: &Subject) {
    for (mode, says) in [("sick", "503"), ("deaf", "")] {
        let mut spec = subject.named(mode, mode);
        spec.start_timeout = Duration::from_millis(1500);
        let error = subject.start(&spec).await.map(drop).unwrap_err();
        assert_eq!(error.code, ProviderCode::InstanceUnhealthy, "{error}");
        assert!(error.message.contains(says) && error.message.contains("within 1.5 s"), "{error}");
        assert!(error.logs.as_ref().unwrap().contains(mode), "{error}");
        subject.nothing_runs("after it was not healthy").await;
    }
}

async fn a_dropped_start(subject: &Subject) {
    // At once, and when it runs already.
    for running in [0, 1] {
        let spec = subject.named("deaf", &format!("dropped-{running}"));
        {
            let mut starting = subject.provider.start(&spec);
            tokio::select! {
                biased;
                started = &mut starting => panic!("a deaf server has {:?}", started.map(drop)),
                () = until("it runs", async || (subject.count)().await >= running) => {}
            }
        }
        subject.nothing_runs("after its start was dropped").await;
    }
}

async fn a_dropped_instance(subject: &Subject) {
    let instance = subject.start(&subject.named("healthy", "drop")).await.unwrap();
    assert!((subject.count)().await > 0);
    let begun = Instant::now();
    drop(instance);
    assert!(begun.elapsed() < Duration::from_millis(1500), "the drop waited");
    subject.nothing_runs("after a drop").await;
}

async fn a_stubborn_one(subject: &Subject) {
    let mut spec = subject.named("stubborn", "stubborn");
    spec.stop_grace = Duration::from_secs(1);
    let instance = subject.start(&spec).await.unwrap();
    let begun = Instant::now();
    instance.stop().await.unwrap();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(4),
        "it had its grace: {took:?}"
    );
    assert_eq!((subject.count)().await, 0);
}

async fn listed_and_stopped_by_others(subject: &Subject) {
    let (one, two) = (subject.named("healthy", "a"), subject.named("healthy", "b"));
    let (one, two) = tokio::join!(subject.start(&one), subject.start(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    let mut names = subject.listed().await;
    names.sort();
    assert_eq!(names, [one.info().name.clone(), two.info().name.clone()]);
    let found = subject.provider.list().await.unwrap();
    let found = found.into_iter().find(|info| info.id == two.info().id).unwrap();
    assert_eq!((&found.url, found.detached), (&two.info().url, false));

    subject.provider.stop(&two.info().name).await.unwrap();
    assert_eq!(subject.listed().await, [one.info().name.clone()]);
    let how = two.ended().await.unwrap();
    assert!(how.contains("ended") || how.contains("removed"), "{how}");
    subject.provider.stop(&two.info().id).await.unwrap();
    let unknown = subject.provider.stop(&two.info().name).await.unwrap_err();
    assert_eq!(unknown.code, ProviderCode::InstanceNotFound, "{unknown}");
    two.stop().await.unwrap();
    one.stop().await.unwrap();
    assert!(subject.listed().await.is_empty());
}

async fn detached(subject: &Subject) {
    let spec = InstanceSpec { detached: true, ..subject.named("healthy", "detached") };
    let instance = subject.start(&spec).await.unwrap();
    let info = instance.info().clone();
    drop(instance);
    assert_eq!(get(&info.url, "/health").await, "{}");
    let swept = subject.provider.sweep().await.unwrap();
    assert!(!swept.contains(&info.id), "it was meant to stay");
    assert_eq!(subject.listed().await, std::slice::from_ref(&info.name));
    subject.provider.stop(&info.name).await.unwrap();
    assert_eq!((subject.count)().await, 0);

    // Before it is healthy it is as any other.
    for mode in ["exits", "sick"] {
        let mut spec = InstanceSpec { detached: true, ..subject.named(mode, "detached") };
        spec.start_timeout = Duration::from_secs(1);
        let error = subject.start(&spec).await.map(drop).unwrap_err();
        assert!(error.logs.as_ref().unwrap().contains(mode), "{error}");
        subject.nothing_runs("after a detached start failed").await;
    }
}

async fn left_behind(subject: &Subject) {
    let name = format!("{}-left", subject.prefix);
    for (mode, running) in [("healthy", true), ("deaf", false)] {
        let mut holder = Command::new(helper())
            .arg("hold")
            .args((subject.hold)(&name, mode))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until("it runs", async || (subject.count)().await > 0).await;
        if running {
            until("it is listed", async || subject.listed().await == [name.clone()]).await;
        }
        // Somebody lives who will end it.
        subject.provider.sweep().await.unwrap();
        assert!((subject.count)().await > 0);
        holder.kill().unwrap();
        holder.wait().unwrap();
        let swept = subject.provider.sweep().await.unwrap();
        assert!(swept.len() == 1 || !subject.alone, "{mode}: {swept:?}");
        // A daemon may still be making what was asked for before the holder was killed.
        until("nothing runs after a sweep", async || {
            subject.provider.sweep().await.unwrap();
            (subject.count)().await == 0
        })
        .await;
        assert!(subject.listed().await.is_empty());
    }
}

async fn no_secret(subject: &Subject) {
    let mut spec = subject.named("healthy", "secret");
    spec.env.push(("SECRET".to_owned(), SecretText::new(SECRET)));
    let instance = subject.start(&spec).await.unwrap();
    assert_eq!(get(instance.url(), "/env/SECRET").await, SECRET);
    until("its words are there", async || instance.logs().await.unwrap().contains("out: healthy ***")).await;
    let logs = instance.logs().await.unwrap();
    let listed = serde_json::to_string(&subject.provider.list().await.unwrap()).unwrap();
    let shown = format!("{spec:?} {:?} {listed} {logs}", instance.info());
    assert!(!shown.contains("hunter2"), "{shown}");
    instance.stop().await.unwrap();
}
