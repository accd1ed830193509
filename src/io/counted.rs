//! Commands of hosts are counted while they wait (`copy/demand.rs`).

use crate::channel::storage::{AfterData, Completed, Execution, Receive, Reserved};
use crate::clock::BoxFuture;
use crate::copy::demand::Demand;
use std::sync::Arc;

/// The same command, counted for as long as it waits for memory or is with the storage; what is answered at once is not.
pub(super) fn counted(demand: &Arc<Demand>, execution: Execution) -> Execution {
    match execution {
        Execution::Now(completed) => Execution::Now(completed),
        Execution::Later(later) => Execution::Later(waits(demand, later)),
        Execution::Receive(Receive { bytes, room, then }) => {
            let room = match room {
                Reserved::Now(room) => Reserved::Now(room),
                Reserved::Later(room) => Reserved::Later(waits(demand, room)),
            };
            let demand = demand.clone();
            let then = Box::new(move |received| match then(received) {
                AfterData::Now(completed) => AfterData::Now(completed),
                AfterData::Later(later) => AfterData::Later(waits::<Completed>(&demand, later)),
            });
            Execution::Receive(Receive { bytes, room, then })
        }
    }
}

fn waits<T: 'static>(demand: &Arc<Demand>, later: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
    let under_way = demand.begin();
    Box::pin(async move {
        let _under_way = under_way;
        later.await
    })
}
