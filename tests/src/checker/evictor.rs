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
    let name = random.pick(&world.schema.tags);
    let family = name.split(':').next().unwrap_or_default();
    let log = world.mix.log_loss;
    let chance = random.below(100);
    let (kind, name) = match chance {
        _ if chance < log => ("log", String::new()),
        chance if chance < log + 8 => ("a", family.to_owned()),
        chance if chance < log + 16 => ("t", format!("{family}:*")),
        chance if chance < log + 30 => ("e", random.pick(&world.schema.objects).key.clone()),
        _ => ("t", name.clone()),
    };
    // The tag of a family may be that of an object too.
    let tag = if kind == "t" { world.schema.tags.binary_search(&name).ok() } else { None };
    let count = || tag.into_iter().for_each(|tag| world.evicted.borrow_mut()[tag] += 1);
    count();
    let key = cache.key(kind, &name);
    let evicted: redis::RedisResult<u64> = cmd("DEL").arg(key).query_async(cache.connection()).await;
    count();
    let mut report = world.report.borrow_mut();
    report.evictions += evicted?;
    report.looked_at(Invariant::Eviction);
    Ok(())
}
