//! Endpoints dealt out to partitions: each partition reads one worker, or some workers that no other partition reads.

use crate::plan::Endpoint;

/// What deals out: something, and how heavy it is.
type Weighed<T> = (T, u64);

/// The endpoints of each partition, by their numbers; `count` partitions at most, and one at least, which is empty where there are
/// no endpoints.
///
/// Endpoints whose first location is the same belong together. Where partitions are fewer than locations, a partition takes
/// several locations whole; where they are more, the heaviest locations are cut. Weights are decoded bytes.
pub(super) fn shares(endpoints: &[Endpoint], count: usize) -> Vec<Vec<usize>> {
    if endpoints.is_empty() {
        return vec![Vec::new()];
    }
    let count = count.clamp(1, endpoints.len());
    let mut groups: Vec<Weighed<Vec<usize>>> = by_location(endpoints)
        .into_iter()
        .map(|group| {
            let weight = group.iter().map(|endpoint| weight(endpoints, *endpoint)).sum();
            (group, weight)
        })
        .collect();
    if groups.len() >= count {
        groups.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        let dealt = dealt(groups, count).into_iter();
        return dealt.map(|groups| groups.into_iter().flatten().collect()).collect();
    }
    let cuts = cuts(&groups, count);
    let cut = groups.into_iter().zip(cuts).flat_map(|((group, _), cuts)| {
        let weighed = group
            .into_iter()
            .map(|endpoint| (endpoint, weight(endpoints, endpoint)));
        dealt(weighed.collect(), cuts)
    });
    cut.collect()
}

/// How many of these shares begin with the same location as one of them.
pub(super) fn sharing(endpoints: &[Endpoint], shares: &[Vec<usize>], share: usize) -> usize {
    let location = |share: &Vec<usize>| endpoints.get(*share.first()?).map(first_location);
    let Some(own) = shares.get(share).and_then(location) else {
        return 1;
    };
    shares.iter().filter(|share| location(share) == Some(own)).count()
}

/// The server that an endpoint names first; none stands for the one that planned.
pub(super) fn first_location(endpoint: &Endpoint) -> &str {
    endpoint.locations.first().map_or("", String::as_str)
}

fn by_location(endpoints: &[Endpoint]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let location = first_location(endpoint);
        match groups.iter_mut().find(|(known, _)| *known == location) {
            Some((_, group)) => group.push(number),
            None => groups.push((location, vec![number])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn weight(endpoints: &[Endpoint], endpoint: usize) -> u64 {
    let about = endpoints.get(endpoint).map(|endpoint| &endpoint.about);
    about.and_then(|about| about.bytes.or(about.rows)).unwrap_or(1).max(1)
}

/// Into how many parts each group is cut, so that there are `count` in all, or as many as there are endpoints.
fn cuts(groups: &[Weighed<Vec<usize>>], count: usize) -> Vec<usize> {
    let mut cuts = vec![1; groups.len()];
    for _ in groups.len()..count {
        let heaviest = groups
            .iter()
            .zip(&mut cuts)
            .filter(|((group, _), cuts)| **cuts < group.len())
            .max_by_key(|((_, weight), cuts)| weight / u64::try_from(**cuts).unwrap_or(u64::MAX));
        if let Some((_, cuts)) = heaviest {
            *cuts += 1;
        }
    }
    cuts
}

/// Deals things out in their order, each where least lies yet. None of the heaps is empty, where there are as many things.
fn dealt<T>(things: Vec<Weighed<T>>, heaps: usize) -> Vec<Vec<T>> {
    let mut dealt: Vec<Weighed<Vec<T>>> = (0..heaps).map(|_| (Vec::new(), 0)).collect();
    for (thing, weight) in things {
        if let Some((heap, total)) = dealt.iter_mut().min_by_key(|(_, total)| *total) {
            heap.push(thing);
            *total += weight;
        }
    }
    dealt.into_iter().map(|(heap, _)| heap).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::plan::EndpointAbout;

    fn endpoint(location: &str, bytes: u64) -> Endpoint {
        Endpoint {
            ticket: bytes::Bytes::new(),
            locations: vec![location.to_owned()],
            expires: None,
            about: EndpointAbout {
                bytes: Some(bytes),
                ..EndpointAbout::default()
            },
        }
    }

    fn endpoints(of: &[(&str, u64)]) -> Vec<Endpoint> {
        of.iter().map(|(location, bytes)| endpoint(location, *bytes)).collect()
    }

    #[test]
    fn a_partition_has_a_location_to_itself_as_far_as_they_go() {
        let two = endpoints(&[("a", 10), ("b", 10), ("a", 10), ("b", 10)]);
        assert_eq!(shares(&two, 2), [vec![0, 2], vec![1, 3]]);
        assert_eq!(shares(&two, 1), [vec![0, 2, 1, 3]]);
        assert_eq!(shares(&two, 9), [vec![0], vec![2], vec![1], vec![3]]);
        // The heavier location is cut.
        let uneven = endpoints(&[("a", 50), ("a", 50), ("b", 10), ("b", 10)]);
        assert_eq!(shares(&uneven, 3), [vec![0], vec![1], vec![2, 3]]);
        assert_eq!(shares(&[], 4), [Vec::<usize>::new()]);
        assert_eq!(shares(&two, 0).len(), 1);
    }

    #[test]
    fn streams_are_told_how_many_partitions_share_a_worker() {
        let one = endpoints(&[("a", 1), ("a", 1), ("a", 1), ("b", 1)]);
        let dealt = shares(&one, 4);
        assert_eq!(sharing(&one, &dealt, 0), 3);
        assert_eq!(sharing(&one, &dealt, 3), 1);
        assert_eq!(sharing(&[], &[vec![]], 0), 1);
    }

    proptest! {
        #[test]
        fn each_endpoint_is_in_one_partition_and_none_is_empty(
            of in prop::collection::vec((0u8..6, 0u64..1000), 1..60),
            count in 1usize..20,
        ) {
            let endpoints: Vec<Endpoint> = of.iter().map(|(location, bytes)| endpoint(&location.to_string(), *bytes)).collect();
            let shares = shares(&endpoints, count);
            prop_assert_eq!(shares.len(), count.min(endpoints.len()));
            prop_assert!(shares.iter().all(|share| !share.is_empty()));
            let mut all: Vec<usize> = shares.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..endpoints.len()));
            let locations = |share: &Vec<usize>| -> BTreeSet<&str> {
                share.iter().map(|endpoint| first_location(&endpoints[*endpoint])).collect()
            };
            let of_all = locations(&(0..endpoints.len()).collect());
            for share in &shares {
                // One location; or several, and no other partition has any of them.
                prop_assert!(locations(share).len() == 1 || of_all.len() > shares.len());
                let elsewhere = shares.iter().filter(|other| *other != share).flat_map(locations);
                let elsewhere: BTreeSet<&str> = elsewhere.collect();
                prop_assert!(locations(share).len() == 1 || locations(share).is_disjoint(&elsewhere));
            }
        }
    }
}
