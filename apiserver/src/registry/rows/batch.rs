//! batch.

use super::super::row::Resource;
use super::{cells, namespaced};
use crate::strategy::job;

const GROUP: &str = "batch";
const V1: &str = "v1";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced(GROUP, V1, "CronJob", "cronjobs")
            .short("cj")
            .all()
            .status()
            .columns(
                "Name, Schedule, Timezone, Suspend:boolean, Active:integer, Last Schedule, Age, Containers*, Images*, \
                 Selector*",
                cells::workload::cron_job,
            )
            .strategy(job::CronJobs),
        namespaced(GROUP, V1, "Job", "jobs")
            .all()
            .status()
            .fields("status.successful@status.succeeded=0")
            .columns(
                "Name, Status, Completions, Duration, Age, Containers*, Images*, Selector*",
                cells::workload::job,
            )
            .strategy(job::Jobs),
    ]
}
