use super::*;

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn parse(rest: &str) -> Result<File, Error> {
    File::parse(&format!("{HEAD}{rest}"))
}

fn names(profile: &Profile) -> (Vec<&str>, Vec<(&str, i64)>) {
    (
        profile.filters.iter().map(|rule| rule.name()).collect(),
        profile
            .scores
            .iter()
            .map(|(weight, rule)| (rule.name(), *weight))
            .collect(),
    )
}

#[test]
fn a_file_that_says_nothing_gives_the_default_profile() {
    let file = parse("").unwrap();
    let default = Profile::default();
    assert_eq!(file.config.profiles.len(), 1);
    let profile = &file.config.profiles[0];
    assert_eq!(profile.name, default.name);
    assert_eq!(names(profile), names(&default));
    assert!(profile.gates && profile.preemption.is_some());
}

#[test]
fn plugins_are_switched_off_and_weighed_by_point_and_for_all_points() {
    let file = parse(
        "profiles:\n- schedulerName: a\n  plugins:\n    multiPoint:\n      disabled: [{name: ImageLocality}, {name: DefaultPreemption}]\n    score:\n      disabled: [{name: PodTopologySpread}]\n      enabled: [{name: NodeAffinity, weight: 9}]\n- schedulerName: b\n  plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: NodeResourcesFit}]\n",
    )
    .unwrap();
    let (filters, scores) = names(&file.config.profiles[0]);
    assert!(filters.contains(&"PodTopologySpread"));
    assert!(scores.contains(&("NodeAffinity", 9)));
    assert!(
        !scores
            .iter()
            .any(|(name, _)| matches!(*name, "ImageLocality" | "PodTopologySpread"))
    );
    assert!(file.config.profiles[0].preemption.is_none());
    assert_eq!(names(&file.config.profiles[1]).1, [("NodeResourcesFit", 1)]);
}

#[test]
fn arguments_and_times_are_taken() {
    let file = parse(
        "podInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 4\npercentageOfNodesToScore: 50\nleaderElection: {leaderElect: false, leaseDuration: 30s}\nclientConnection: {kubeconfig: /etc/k}\nprofiles:\n- pluginConfig:\n  - name: DefaultPreemption\n    args: {minCandidateNodesPercentage: 5, minCandidateNodesAbsolute: 7}\n  - name: NodeResourcesFit\n    args:\n      apiVersion: kubescheduler.config.k8s.io/v1\n      kind: NodeResourcesFitArgs\n      scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}\n",
    )
    .unwrap();
    assert_eq!(file.config.rests.first, Duration::from_secs(2));
    assert_eq!(file.leader_election.lead, Some(false));
    assert_eq!(file.leader_election.lease, Some(Duration::from_secs(30)));
    assert_eq!(file.kubeconfig, Some("/etc/k".into()));
    let candidates = file.config.profiles[0].preemption.unwrap();
    assert_eq!((candidates.percentage, candidates.absolute), (5, 7));
    assert!(format!("{:?}", file.config.profiles[0].filters).contains("MostAllocated"));
}

#[test]
fn what_is_not_understood_is_refused_with_its_path() {
    for (text, path) in [
        ("foo: 1\n", "configuration"),
        ("percentageOfNodesToScore: 101\n", "percentageOfNodesToScore"),
        ("podInitialBackoffSeconds: 20\n", "podMaxBackoffSeconds"),
        ("extenders: [{urlPrefix: http://x}]\n", "extenders"),
        ("profiles: [{}, {}]\n", "profiles[1].schedulerName"),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: Nope}]}}}]\n",
            "profiles[0].plugins.filter",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: ImageLocality}]}}}]\n",
            "profiles[0].plugins.filter",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]\n",
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight",
        ),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {x: 1}}]}]\n",
            "profiles[0].pluginConfig[0].args",
        ),
    ] {
        assert_eq!(
            parse(text).map(drop).map_err(|error| error.path),
            Err(path.to_owned()),
            "{text}"
        );
    }
    let old = "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n";
    assert!(File::parse(old).is_err());
}
