//! Leaves out what does not matter: halves first, then less and less, down to single pieces.
//!
//! Candidates are asked for together, because many can be tried in one start of a QEMU.

/// Makes `whole` as short as it can be while `still` says of it what it says of the whole. `still` is given candidates, and
/// says of each whether it still does.
///
/// # Errors
/// Those of `still`.
pub fn shortest<T: Clone, E>(
    whole: &[T],
    mut still: impl FnMut(&[Vec<T>]) -> Result<Vec<bool>, E>,
) -> Result<Vec<T>, E> {
    let mut kept = whole.to_vec();
    let mut size = kept.len().div_ceil(2).max(1);
    while !kept.is_empty() {
        let mut left_out = false;
        loop {
            let chunks: Vec<_> =
                (0..kept.len()).step_by(size).map(|from| from..(from + size).min(kept.len())).collect();
            let without = |out: &[std::ops::Range<usize>]| -> Vec<T> {
                let stays = |at: &usize| !out.iter().any(|range| range.contains(at));
                (0..kept.len()).filter(stays).map(|at| kept[at].clone()).collect()
            };
            let candidates: Vec<_> =
                chunks.iter().map(|chunk| without(std::slice::from_ref(chunk))).collect();
            let said = still(&candidates)?;
            let can_go: Vec<_> =
                chunks.iter().zip(&said).filter(|(_, said)| **said).map(|(chunk, _)| chunk.clone()).collect();
            if can_go.is_empty() {
                break;
            }
            // Each can go alone; often they can together. More and more of them, and the most that can.
            let together: Vec<_> = (1..=can_go.len()).map(|count| without(&can_go[..count])).collect();
            let said = if can_go.len() > 1 { still(&together)? } else { vec![true] };
            let most = said.iter().rposition(|&said| said).unwrap_or(0);
            kept = together.into_iter().nth(most).unwrap_or_default();
            left_out = true;
            if kept.is_empty() {
                return Ok(kept);
            }
        }
        if size == 1 && !left_out {
            break;
        }
        size = (size / 2).max(1);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What matters stays, and nothing else does.
        #[test]
        fn only_what_matters_stays(length in 0_u32..200, matters in proptest::collection::btree_set(0_u32..200, 0..8)) {
            let whole: Vec<u32> = (0..length).collect();
            let matters: Vec<u32> = matters.into_iter().filter(|at| *at < length).collect();
            let mut asked = 0;
            let found = shortest(&whole, |candidates| {
                asked += 1;
                let whole = |candidate: &Vec<u32>| matters.iter().all(|at| candidate.contains(at));
                Ok::<_, ()>(candidates.iter().map(whole).collect())
            });
            prop_assert_eq!(found, Ok(matters));
            prop_assert!(asked < 200, "{}", asked);
        }

        /// Where it takes one of two, one of them stays.
        #[test]
        fn one_of_two_stays(a in 0_u32..64, b in 0_u32..64) {
            let whole: Vec<u32> = (0..64).collect();
            let found = shortest(&whole, |candidates| {
                let either = |candidate: &Vec<u32>| candidate.contains(&a) || candidate.contains(&b);
                Ok::<_, ()>(candidates.iter().map(either).collect())
            }).unwrap();
            prop_assert!(found == [a] || found == [b], "{:?}", found);
        }
    }

    #[test]
    fn trouble_is_passed_on() {
        assert_eq!(shortest(&[1, 2, 3], |_| Err::<Vec<bool>, _>("gone")), Err("gone"));
    }
}
