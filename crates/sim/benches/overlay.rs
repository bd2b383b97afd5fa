//! How many virtual seconds of 2,000 super nodes the simulator runs per second: 8 virtual minutes
//! (the
//! filling included) are one iteration, so the throughput in elements is virtual seconds per
//! second.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]
// Virtual time starts somewhere: an `Instant` can only be had from the clock.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

use cooee_sim::overlay::{Scenario, Size, run};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn two_thousand_super_nodes(criterion: &mut Criterion) {
    let full = Scenario::SteadyChurn.full();
    let size = Size { super_nodes: 2000, users: 2000, minutes: 6, look_ups_per_minute: 60, ..full };
    let mut group = criterion.benchmark_group("overlay");
    group.sample_size(10).throughput(Throughput::Elements(8 * 60));
    group.bench_function("virtual seconds of 2,000 super nodes", |bencher| {
        bencher.iter(|| run(Scenario::SteadyChurn, size, 1, Instant::now()).events);
    });
    group.finish();
}

criterion_group!(benches, two_thousand_super_nodes);
criterion_main!(benches);
