//! Routes: which link leads to an address, and through whom.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::link::mask;

/// An entry of the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network it leads to.
    pub destination: Ipv4Addr,
    /// Bits of the network part; 0 leads everywhere.
    pub prefix: u8,
    /// The router; `None` when the network is on the link itself.
    pub gateway: Option<Ipv4Addr>,
    /// The link's index.
    pub link: u32,
    /// Among routes of equal prefix the least wins.
    pub metric: u32,
}

impl Route {
    /// Whether `address` is on the network it leads to.
    pub fn matches(&self, address: Ipv4Addr) -> bool {
        address & mask(self.prefix) == self.destination
    }
}

/// The routing table, the most specific first.
#[derive(Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// The route to `address`; with `link`, only one over that link.
    pub fn lookup(&self, address: Ipv4Addr, link: Option<u32>) -> Option<Route> {
        self.0
            .iter()
            .find(|route| link.is_none_or(|link| link == route.link) && route.matches(address))
            .copied()
    }

    /// Adds a route; one to the same network over the same link is replaced.
    pub fn add(&mut self, mut route: Route) {
        route.destination &= mask(route.prefix);
        self.0.retain(|old| !(old.same_target(&route) && old.metric == route.metric));
        let key = |route: &Route| (core::cmp::Reverse(route.prefix), route.metric);
        let at = self.0.partition_point(|old| key(old) <= key(&route));
        self.0.insert(at, route);
    }

    /// Removes the routes to this network, through this router and over this link where given. How many those were.
    pub fn remove(
        &mut self,
        destination: Ipv4Addr,
        prefix: u8,
        gateway: Option<Ipv4Addr>,
        link: Option<u32>,
    ) -> usize {
        let before = self.0.len();
        self.0.retain(|route| {
            !(route.destination == destination & mask(prefix)
                && route.prefix == prefix
                && gateway.is_none_or(|gateway| route.gateway == Some(gateway))
                && link.is_none_or(|link| route.link == link))
        });
        before - self.0.len()
    }

    /// Removes all routes over a link.
    pub fn remove_link(&mut self, link: u32) {
        self.0.retain(|route| route.link != link);
    }

    /// All routes, the most specific first.
    pub fn all(&self) -> &[Route] {
        &self.0
    }
}

impl Route {
    fn same_target(&self, other: &Self) -> bool {
        (self.destination, self.prefix, self.link) == (other.destination, other.prefix, other.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(destination: [u8; 4], prefix: u8, link: u32) -> Route {
        Route { destination: destination.into(), prefix, gateway: None, link, metric: 0 }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let mut routes = Routes::default();
        routes.add(Route { gateway: Some([10, 0, 0, 1].into()), ..route([0, 0, 0, 0], 0, 1) });
        routes.add(route([10, 0, 0, 9], 24, 1));
        routes.add(route([10, 0, 0, 128], 25, 2));
        assert_eq!(routes.lookup([10, 0, 0, 5].into(), None).unwrap().prefix, 24);
        assert_eq!(routes.lookup([10, 0, 0, 200].into(), None).unwrap().link, 2);
        assert_eq!(routes.lookup([10, 0, 0, 200].into(), Some(1)).unwrap().prefix, 24);
        assert_eq!(routes.lookup([8, 8, 8, 8].into(), None).unwrap().prefix, 0);
        assert_eq!(routes.remove([0, 0, 0, 0].into(), 0, None, None), 1);
        assert!(routes.lookup([8, 8, 8, 8].into(), None).is_none());
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_search_of_all(
            table in prop::collection::vec((any::<u32>(), 0u8..=32, 1u32..4, 0u32..3), 0..20),
            address in any::<u32>(),
        ) {
            let mut routes = Routes::default();
            for (destination, prefix, link, metric) in table {
                // Few networks, so that some match.
                let destination = Ipv4Addr::from_bits(destination & 0x8000_0003 | address & 0x7fff_fff0);
                routes.add(Route { destination, prefix, gateway: None, link, metric });
            }
            let address = Ipv4Addr::from_bits(address);
            let best = routes.all().iter().filter(|route| route.matches(address))
                .map(|route| (core::cmp::Reverse(route.prefix), route.metric)).min();
            let found = routes.lookup(address, None).map(|route| (core::cmp::Reverse(route.prefix), route.metric));
            prop_assert_eq!(found, best);
        }
    }
}
