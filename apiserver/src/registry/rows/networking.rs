//! networking.k8s.io.

use super::super::row::Resource;
use super::{cells, cluster, namespaced};
use crate::strategy::networking::{self, Addresses, IngressClasses, Ingresses, Policies, ServiceRanges};

const GROUP: &str = "networking.k8s.io";
const V1: &str = "v1";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        cluster(GROUP, V1, "IngressClass", "ingressclasses")
            .columns("Name, Controller, Parameters, Age", cells::network::ingress_class)
            .strategy(IngressClasses),
        namespaced(GROUP, V1, "Ingress", "ingresses")
            .short("ing")
            .status()
            .prefix("ingress")
            .columns("Name, Class, Hosts, Address, Ports, Age", cells::network::ingress)
            .strategy(Ingresses),
        cluster(GROUP, V1, "IPAddress", "ipaddresses")
            .short("ip")
            .names(networking::address_name)
            .columns("Name, ParentRef", cells::network::ip_address)
            .strategy(Addresses),
        namespaced(GROUP, V1, "NetworkPolicy", "networkpolicies")
            .short("netpol")
            .columns("Name, Pod-Selector, Age", cells::network::policy)
            .strategy(Policies),
        cluster(GROUP, V1, "ServiceCIDR", "servicecidrs")
            .status()
            .columns("Name, CIDRs, Age", cells::network::service_cidr)
            .strategy(ServiceRanges),
    ]
}
