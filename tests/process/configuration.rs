//! The configurations that the other tests run with are what an operator would write: `holdfast check` finds nothing.

use crate::support::process::{Cluster, Layout, binary, run_tool};

#[tokio::test(flavor = "multi_thread")]
async fn the_configurations_of_a_primary_and_two_auxiliaries_are_accepted_in_silence() {
    let cluster = Cluster::new(Layout::default()).await;
    for array in &cluster.arrays {
        let output = run_tool(binary().args(["check", "--config"]).arg(array.config_path()));
        assert!(
            output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}
