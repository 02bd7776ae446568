//! Loses keys, as a Redis whose memory is full does.

use std::rc::Rc;

use redis::cmd;

use super::report::Invariant;
use super::world::World;
use crate::Cache;
use crate::random::Random;

/// Deletes tags, entries and the log until the run is over.
pub async fn run(world: Rc<World>, mut random: Random) {
    while let Some(mut cache) = world.redis().await {
        while !world.is_over() {
            world.pause(random.up_to(world.mix.eviction * 2)).await;
            if evict(&world, &mut cache, &mut random).await.is_err() {
                world.report.borrow_mut().error("evictor");
                break;
            }
        }
    }
}

async fn evict(world: &World, cache: &mut Cache, random: &mut Random) -> redis::RedisResult<()> {
    let tag = random.below(world.schema.tags.len());
    let name = &world.schema.tags[tag];
    let family = name.split(':').next().unwrap_or_default();
    let log = world.mix.log_loss;
    let chance = random.below(100);
    let (key, evicted_tag) = match chance {
        _ if chance < log => (cache.key("log", ""), None),
        chance if chance < log + 8 => (cache.key("a", family), None),
        chance if chance < log + 16 => {
            let whole = format!("{family}:*");
            (cache.key("t", &whole), world.schema.tags.iter().position(|tag| *tag == whole))
        }
        chance if chance < log + 30 => (cache.key("e", &random.pick(&world.schema.objects).key), None),
        _ => (cache.key("t", name), Some(tag)),
    };
    // Before and after: whoever looks in between knows that he cannot know.
    let count = || evicted_tag.into_iter().for_each(|tag| world.evicted.borrow_mut()[tag] += 1);
    count();
    let evicted: redis::RedisResult<u64> = cmd("DEL").arg(key).query_async(cache.connection()).await;
    count();
    let mut report = world.report.borrow_mut();
    report.evictions += evicted?;
    report.looked_at(Invariant::Eviction);
    Ok(())
}
