//! What is past its time, and what L2 may not have been told of.

use tokio::time::Instant;

use super::*;

/// Past its time whatever the jitter, and well within the bound up to which it is served at once.
const JUST_PAST: Duration = Duration::from_secs(70);
/// Past that bound too.
const LONG_PAST: Duration = Duration::from_secs(300);

impl Instance {
    /// Reads the version at once, then waits for `go` if there is one.
    async fn revalidate(&self, go: Option<Arc<Notify>>) -> (u64, Hit) {
        let (version, fetches) = (Arc::clone(&self.version), Arc::clone(&self.fetches));
        let fetch = || async move {
            let read = version.load(Ordering::SeqCst);
            fetches.fetch_add(1, Ordering::SeqCst);
            if let Some(go) = go {
                go.notified().await;
            }
            Ok::<_, ()>(read)
        };
        let stale_on = |(): &()| true;
        let cached = self
            .cache
            .get_or_revalidate(KEY, &tags(), TTL, stale_on, fetch)
            .await
            .unwrap();
        (*cached.value, cached.hit)
    }

    async fn eventually_reads(&self, expected: u64) {
        let end = Instant::now() + PATIENCE;
        while self.revalidate(None).await.0 != expected {
            assert!(Instant::now() < end, "never {expected}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn fetched(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }
}

async fn until_fetched(instance: &Instance, times: u64) {
    while instance.fetched() < times {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_past_its_time_is_served_at_once_and_loaded_again_once() {
    for with_l2 in [false, true] {
        // Who waited for the store would wait for longer than the test does.
        let world = World::with_soft_timeout(600_000);
        let instance = match with_l2 {
            true => world.with_l2(),
            false => world.alone(),
        };
        assert_eq!(instance.revalidate(None).await, (1, Hit::Fetched));
        world.clock.advance(JUST_PAST);
        // Changed behind the platform's back: only its time says so.
        instance.version.store(2, Ordering::SeqCst);
        let go = Arc::new(Notify::new());
        for _ in 0..5 {
            let read = instance.revalidate(Some(Arc::clone(&go)));
            let read = tokio::time::timeout(PATIENCE, read).await;
            assert_eq!(read.unwrap(), (1, Hit::Revalidated), "L2: {with_l2}");
        }
        until_fetched(&instance, 2).await;
        go.notify_one();
        instance.eventually_reads(2).await;
        assert_eq!(instance.fetched(), 2, "one load for all, L2: {with_l2}");
    }
}

#[tokio::test]
async fn two_instances_load_it_again_once() {
    let world = World::new();
    let (a, b) = (world.with_l2(), world.with_l2());
    a.revalidate(None).await;
    world.clock.advance(JUST_PAST);
    let go = Arc::new(Notify::new());
    let first = a.revalidate(Some(Arc::clone(&go))).await;
    until_fetched(&a, 2).await;
    assert_eq!(
        (first, b.revalidate(None).await),
        ((1, Hit::Revalidated), (1, Hit::Revalidated))
    );
    assert_eq!(b.fetched(), 2);
    go.notify_one();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(b.revalidate(None).await, (1, Hit::L2));
}

#[tokio::test]
async fn what_is_long_past_its_time_is_served_only_if_the_load_takes_long() {
    for with_l2 in [false, true] {
        let mut world = World::with_soft_timeout(2_000);
        // What is shown may be from longer ago than that.
        world.config.l1_shared_ttl_ms = 60_000;
        let instance = match with_l2 {
            true => world.with_l2(),
            false => world.alone(),
        };
        instance.revalidate(None).await;
        world.clock.advance(LONG_PAST);
        instance.version.store(2, Ordering::SeqCst);
        assert_eq!(instance.revalidate(None).await, (2, Hit::Fetched));
        world.clock.advance(LONG_PAST);
        instance.version.store(3, Ordering::SeqCst);
        let go = Arc::new(Notify::new());
        let slow = instance.revalidate(Some(Arc::clone(&go))).await;
        assert_eq!(slow, (2, Hit::Revalidated), "after the soft time-out");
        go.notify_one();
        instance.eventually_reads(3).await;
    }
}

#[tokio::test]
async fn whoever_asks_while_it_is_loaded_waits_for_that_load_too() {
    let world = World::with_soft_timeout(2_000);
    let instance = Arc::new(world.alone());
    instance.revalidate(None).await;
    world.clock.advance(LONG_PAST);
    instance.version.store(2, Ordering::SeqCst);
    let go = Arc::new(Notify::new());
    let ask = |go: Option<Arc<Notify>>| {
        let instance = Arc::clone(&instance);
        tokio::spawn(async move { instance.revalidate(go).await })
    };
    let first = ask(Some(Arc::clone(&go)));
    until_fetched(&instance, 2).await;
    let second = ask(None);
    tokio::time::sleep(Duration::from_millis(20)).await;
    go.notify_one();
    assert_eq!(first.await.unwrap(), (2, Hit::Fetched));
    assert_eq!(second.await.unwrap(), (2, Hit::L1));
    assert_eq!(instance.fetched(), 2, "one load for both");
    // A load that takes too long is not waited for.
    world.clock.advance(LONG_PAST);
    let first = ask(Some(Arc::clone(&go)));
    until_fetched(&instance, 3).await;
    assert_eq!(ask(None).await.unwrap(), (2, Hit::Revalidated));
    go.notify_one();
    first.await.unwrap();
}

#[tokio::test]
async fn what_others_may_have_written_is_asked_for_again_though_the_clock_was_set_back() {
    let world = World::new();
    let instance = world.instance(None, true);
    assert_eq!(instance.read().await, (1, Hit::Fetched));
    assert_eq!(instance.read().await, (1, Hit::L1));
    instance.version.store(2, Ordering::SeqCst);
    // The machine's clock stands still; as well it might be set back.
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(instance.read().await, (2, Hit::Fetched));
}

#[tokio::test]
async fn an_invalidation_beats_the_load_in_the_background() {
    for with_l2 in [false, true] {
        let world = World::new();
        let (instance, other) = match with_l2 {
            true => (world.with_l2(), world.with_l2()),
            false => (world.alone(), world.alone()),
        };
        instance.revalidate(None).await;
        world.clock.advance(JUST_PAST);
        let go = Arc::new(Notify::new());
        instance.revalidate(Some(Arc::clone(&go))).await;
        // The load has read version 1 and waits. Now version 2 is committed and answered.
        until_fetched(&instance, 2).await;
        let writer = if with_l2 { &other } else { &instance };
        writer.write().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(
            instance.revalidate(None).await,
            (2, Hit::Fetched),
            "what was invalidated is not served meanwhile, L2: {with_l2}"
        );
        go.notify_one();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(instance.revalidate(None).await.0, 2, "L2: {with_l2}");
        if with_l2 {
            assert_eq!(other.revalidate(None).await.0, 2, "nor has it filled L2");
        }
    }
}

#[tokio::test]
async fn a_write_while_a_slow_load_is_waited_for_is_not_hidden_by_the_older_copy() {
    let world = World::new();
    let instance = Arc::new(world.alone());
    instance.revalidate(None).await;
    world.clock.advance(LONG_PAST);
    let go = Arc::new(Notify::new());
    let reading = tokio::spawn({
        let (instance, go) = (Arc::clone(&instance), Arc::clone(&go));
        async move { instance.revalidate(Some(go)).await }
    });
    until_fetched(&instance, 2).await;
    instance.write().await;
    let asked_after = tokio::time::timeout(FOLLOW_PATIENCE, instance.revalidate(None));
    assert_eq!(asked_after.await.unwrap(), (2, Hit::Fetched));
    go.notify_one();
    reading.await.unwrap();
    assert_eq!(instance.revalidate(None).await, (2, Hit::L1));
}

#[tokio::test]
async fn l2_is_asked_only_while_it_is_known_what_it_was_not_told() {
    let world = World::new();
    let (a, b) = (world.with_l2(), world.with_l2());
    a.read().await;
    b.cache.begin_coverage();
    assert_eq!(b.read().await, (1, Hit::Fetched), "nothing is known yet");
    world.clock.advance(Duration::from_secs(2));
    b.cache.covered(Instant::now());
    assert_eq!(b.read().await, (1, Hit::L2));
    // Another instance commits, and cannot tell L2.
    b.version.store(2, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(2));
    b.cache.distrust(&tags());
    assert_eq!(b.read().await, (2, Hit::Fetched), "round L2");
    world.l2_is_empty().await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(
        a.read().await,
        (2, Hit::Fetched),
        "which has been told meanwhile"
    );
    // Nobody has looked for a second.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(b.read().await, (2, Hit::Fetched));
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(
        b.read_while_away().await,
        Ok((2, Hit::Stale)),
        "marked, it is better than nothing"
    );
}

#[tokio::test]
async fn a_load_that_began_a_second_before_one_asks_is_not_waited_for_in_vain() {
    let world = World::new();
    let instance = Arc::new(world.instance(None, true));
    let (go, first) = slow_load(&instance).await;
    instance.version.store(2, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(2));
    let second = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { instance.read().await }
    });
    tokio::task::yield_now().await;
    go.notify_one();
    assert_eq!(*first.await.unwrap().value, 1);
    assert_eq!(second.await.unwrap(), (2, Hit::Fetched));
}
