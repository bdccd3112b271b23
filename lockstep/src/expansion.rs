//! From the windows of two probes to the first instruction that differs, and what stands around it.

use trace::block::Instruction;
use trace::message::Window;

/// One executed instruction.
#[derive(Debug, Clone, Copy)]
pub struct Executed<'a> {
    /// Instructions before it.
    pub position: u64,
    pub instruction: &'a Instruction,
    /// The translated block that it was executed in, and its number there, from 0.
    pub block: &'a [Instruction],
    pub number: usize,
    /// The vCPU that executed it.
    pub vcpu: u32,
    /// Which entry into a block of its window it belongs to.
    pub visit: usize,
}

/// The instructions of windows that follow one another, as one stream. `None` where a window names a block that
/// it does not have, or the windows do not follow one another.
#[must_use]
pub fn expand(windows: &[Window]) -> Option<Vec<Executed<'_>>> {
    let mut stream: Vec<Executed> = Vec::new();
    let mut visits = 0;
    for window in windows {
        if let Some(last) = stream.last()
            && last.position + 1 != window.first
        {
            return None;
        }
        let mut position = window.first;
        for visit in &window.visits {
            let block = window.blocks.get(visit.block as usize)?;
            let end = visit.skip.checked_add(visit.ran)?;
            // A block cut by the border of two chunks goes on being the same visit.
            if visit.skip == 0 {
                visits += 1;
            }
            for number in visit.skip as usize..end as usize {
                let instruction = block.get(number)?;
                stream.push(Executed {
                    position,
                    instruction,
                    block,
                    number,
                    vcpu: visit.vcpu,
                    visit: visits,
                });
                position += 1;
            }
        }
    }
    Some(stream)
}

/// The index of the first instruction that differs, where both streams begin at the same position; where
/// one of them ends first, its length.
#[must_use]
pub fn first_difference(a: &[Executed], b: &[Executed]) -> Option<usize> {
    let differ = |(a, b): (&Executed, &Executed)| {
        (a.vcpu, a.instruction.identity()) != (b.vcpu, b.instruction.identity())
    };
    match a.iter().zip(b).position(differ) {
        None if a.len() != b.len() => Some(a.len().min(b.len())),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::message::Visit;

    fn window(first: u64, blocks: &[&[u64]], visits: &[(u32, u32, u32)]) -> Window {
        let instruction = |&address: &u64| Instruction::new(address, vec![0x90]);
        Window {
            first,
            visits: visits.iter().map(|&(block, skip, ran)| Visit { vcpu: 0, block, skip, ran }).collect(),
            blocks: blocks.iter().map(|block| block.iter().map(instruction).collect()).collect(),
        }
    }

    #[test]
    fn the_same_instructions_in_other_blocks_do_not_differ() {
        let a = [window(10, &[&[1, 2, 3], &[4]], &[(0, 0, 3), (1, 0, 1)])];
        let b = [window(10, &[&[1], &[2, 3, 4, 5]], &[(0, 0, 1), (1, 0, 3)])];
        assert_eq!(first_difference(&expand(&a).unwrap(), &expand(&b).unwrap()), None);
    }

    #[test]
    fn the_first_that_differs_is_found_behind_a_border() {
        let a = [
            window(10, &[&[1, 2, 3]], &[(0, 0, 2)]),
            window(12, &[&[1, 2, 3], &[4]], &[(0, 2, 1), (1, 0, 1)]),
        ];
        let b = [
            window(10, &[&[1, 2, 3]], &[(0, 0, 2)]),
            window(12, &[&[1, 2, 3], &[9]], &[(0, 2, 1), (1, 0, 1)]),
        ];
        let (a, b) = (expand(&a).unwrap(), expand(&b).unwrap());
        assert_eq!(first_difference(&a, &b), Some(3));
        assert_eq!((a[3].position, a[3].visit, a[2].visit, a[2].number), (13, 2, 1, 2));
    }

    #[test]
    fn a_window_that_lies_about_its_blocks_is_refused() {
        assert!(expand(&[window(0, &[&[1]], &[(1, 0, 1)])]).is_none());
        assert!(expand(&[window(0, &[&[1]], &[(0, 0, 2)])]).is_none());
        assert!(expand(&[window(0, &[&[1]], &[(0, u32::MAX, 2)])]).is_none());
        assert!(expand(&[window(0, &[&[1]], &[(0, 0, 1)]), window(5, &[&[1]], &[(0, 0, 1)])]).is_none());
    }
}
