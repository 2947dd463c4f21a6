//! Where a Service's pods are: EndpointSlices, and Endpoints for those who still read them.
//! Services and pods come in; nothing here knows how packets are routed.
//! A pod is listed under exactly the addresses of the families that its Service has.
