//! Which sequence owns which block of the cache, and which prefix can be had for nothing.
//!
//! Blocks form a tree: a block's parent holds the tokens before its own, so the path to a block is a
//! prefix. A new sequence takes over the blocks of its longest prefix in the tree; within the block
//! where it parts from others it copies what they share. Blocks that nobody uses stay in the tree
//! until their room is needed, the least recently used first. A sequence is let in only when all
//! blocks that it may come to need can be had, so nothing grows or fails later.

use crate::model::cpu::cache::BLOCK;

/// A block's place in the tree.
#[derive(Debug, Clone, Default)]
struct Node {
    parent: Option<u32>,
    children: Vec<u32>,
    /// The tokens of the block's positions, as far as they are known, and how many were computed.
    tokens: Vec<u32>,
    computed: usize,
    /// Sequences whose table holds the block.
    users: usize,
    /// When a sequence took it last.
    used: u64,
}

pub struct Blocks {
    nodes: Vec<Node>,
    roots: Vec<u32>,
    free: Vec<u32>,
    /// Blocks that no sequence uses but that hold a prefix.
    idle: usize,
    /// Blocks promised to sequences that have not come to need them.
    promised: usize,
    clock: u64,
}

/// The blocks of one sequence.
#[derive(Debug, Default)]
pub struct Table {
    pub blocks: Vec<u32>,
    /// Tokens computed.
    pub computed: usize,
    /// Blocks that the sequence may yet take.
    promised: usize,
}

/// A block to be copied before the sequence is computed: its first tokens are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    pub from: u32,
    pub to: u32,
}

/// What became of a sequence that asked for room.
#[derive(Debug)]
pub enum Admission {
    Admitted(Table, Option<Copy>),
    /// Another sequence is computing a prefix that this one shares: soon it will be had for nothing.
    PrefixUnderWay,
    /// Room will be free when others end.
    Full,
}

/// The longest prefix in the tree.
#[derive(Debug, Default)]
struct Match {
    /// Whole blocks.
    blocks: Vec<u32>,
    /// The block that shares some tokens more, and how many of those are computed.
    partial: Option<(u32, usize)>,
    /// Tokens of the longest prefix including what others are computing at the moment.
    coming: usize,
}

impl Match {
    fn tokens(&self) -> usize {
        self.blocks.len() * BLOCK + self.partial.map_or(0, |(_, tokens)| tokens)
    }
}

impl Blocks {
    pub fn new(count: usize) -> Self {
        Self {
            nodes: vec![Node::default(); count],
            roots: Vec::new(),
            free: (0..count as u32).rev().collect(),
            idle: 0,
            promised: 0,
            clock: 0,
        }
    }

    /// Asks room for a sequence that begins with `tokens` and ends within `longest` tokens. What follows
    /// the first `reusable` tokens is computed in any case, for its hidden states are wanted.
    ///
    /// # Panics
    /// If `longest` tokens would not fit the empty cache.
    pub fn admit(&mut self, tokens: &[u32], reusable: usize, longest: usize) -> Admission {
        let needed = longest.div_ceil(BLOCK);
        assert!(needed <= self.nodes.len(), "a sequence longer than the cache");
        let mut found = self.longest_prefix(&tokens[..reusable]);
        if found.coming >= found.tokens() + BLOCK / 2 {
            return Admission::PrefixUnderWay;
        }
        let idle = |block: u32| usize::from(self.nodes[block as usize].users == 0);
        let revived: usize = found.blocks.iter().map(|block| idle(*block)).sum();
        let new = needed - found.blocks.len();
        let (wanted, room) = (new + revived + self.promised, self.free.len() + self.idle);
        if wanted > room {
            return Admission::Full;
        }
        // The block to copy from stays until it is copied, if there is room for that.
        found.partial = found.partial.filter(|(block, _)| wanted + idle(*block) <= room);
        let mut table = Table {
            computed: found.tokens(),
            promised: new,
            ..Table::default()
        };
        self.promised += new;
        self.clock += 1;
        for block in found.blocks {
            self.take(block);
            table.blocks.push(block);
        }
        if let Some((block, _)) = found.partial {
            self.take(block);
        }
        let first_new = table.blocks.len();
        for chunk in tokens[first_new * BLOCK..].chunks(BLOCK) {
            self.grow(&mut table, chunk);
        }
        let copy = found.partial.map(|(from, shared)| {
            self.release(from);
            let to = table.blocks[first_new];
            self.nodes[to as usize].computed = shared;
            Copy { from, to }
        });
        Admission::Admitted(table, copy)
    }

    /// Notes that the sequence's tokens are computed up to `end`.
    pub fn computed(&mut self, table: &mut Table, end: usize) {
        for index in table.computed / BLOCK..end.div_ceil(BLOCK) {
            let node = &mut self.nodes[table.blocks[index] as usize];
            node.computed = node.computed.max((end - index * BLOCK).min(BLOCK));
        }
        table.computed = end;
    }

    /// Appends a token to the sequence, whose tokens so far are all in its blocks.
    pub fn push(&mut self, table: &mut Table, length: usize, token: u32) {
        if length.is_multiple_of(BLOCK) {
            self.grow(table, &[token]);
        } else if let Some(last) = table.blocks.last() {
            self.nodes[*last as usize].tokens.push(token);
        }
    }

    /// Gives up a sequence. What was computed of it stays until its room is needed.
    pub fn finish(&mut self, table: Table) {
        self.promised -= table.promised;
        self.clock += 1;
        for block in table.blocks.iter().rev() {
            self.release(*block);
        }
    }

    fn longest_prefix(&self, tokens: &[u32]) -> Match {
        let mut found = Match::default();
        let mut children = &self.roots;
        let mut whole = true;
        for chunk in tokens.chunks(BLOCK) {
            // The child that shares most, computed tokens first.
            let shared = |block: &u32| {
                let node = &self.nodes[*block as usize];
                let known = node.tokens.iter().zip(chunk).take_while(|(a, b)| a == b).count();
                (known.min(node.computed), known)
            };
            let best_now = children.iter().max_by_key(|block| shared(block).0);
            let best_coming = children.iter().max_by_key(|block| shared(block).1);
            let (Some(now), Some(coming)) = (best_now, best_coming) else {
                break;
            };
            let (ready, known) = (shared(now).0, shared(coming).1);
            found.coming += known;
            if whole && ready == BLOCK {
                found.blocks.push(*now);
                children = &self.nodes[*now as usize].children;
                continue;
            }
            if whole && ready > 0 {
                found.partial = Some((*now, ready));
            }
            whole = false;
            if known < BLOCK {
                break;
            }
            children = &self.nodes[*coming as usize].children;
        }
        found
    }

    /// Adds a user to a block.
    fn take(&mut self, block: u32) {
        let node = &mut self.nodes[block as usize];
        if node.users == 0 {
            self.idle -= 1;
        }
        node.users += 1;
        node.used = self.clock;
    }

    /// Takes a user from a block; what holds nothing is free again.
    fn release(&mut self, block: u32) {
        let node = &mut self.nodes[block as usize];
        node.users -= 1;
        node.used = self.clock;
        if node.users > 0 {
            return;
        }
        self.idle += 1;
        // Tokens that were never computed are no prefix.
        let computed = node.computed;
        node.tokens.truncate(computed);
        if computed == 0 {
            self.forget(block);
        }
    }

    /// Appends a new block with its first tokens to a sequence.
    fn grow(&mut self, table: &mut Table, tokens: &[u32]) {
        let block = self.free.pop().unwrap_or_else(|| {
            let oldest = self.oldest_idle();
            self.forget(oldest);
            self.free.pop().expect("a forgotten block is free")
        });
        let parent = table.blocks.last().copied();
        self.nodes[block as usize] = Node {
            parent,
            tokens: tokens.to_vec(),
            users: 1,
            used: self.clock,
            ..Node::default()
        };
        self.siblings(parent).push(block);
        table.blocks.push(block);
        table.promised -= 1;
        self.promised -= 1;
    }

    /// The unused block whose last use is longest ago, among those that no prefix goes through.
    fn oldest_idle(&self) -> u32 {
        let idle = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.users == 0 && node.children.is_empty() && !node.tokens.is_empty());
        let oldest = idle.min_by_key(|(_, node)| node.used).map(|(index, _)| index as u32);
        oldest.expect("room was promised, so a block is free or idle")
    }

    /// Removes an idle block from the tree.
    fn forget(&mut self, block: u32) {
        let node = std::mem::take(&mut self.nodes[block as usize]);
        debug_assert!(node.children.is_empty(), "a prefix goes through the block");
        self.siblings(node.parent).retain(|sibling| *sibling != block);
        self.idle -= 1;
        self.free.push(block);
    }

    fn siblings(&mut self, parent: Option<u32>) -> &mut Vec<u32> {
        match parent {
            Some(parent) => &mut self.nodes[parent as usize].children,
            None => &mut self.roots,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;
    use crate::seed::Seed;

    fn admitted(blocks: &mut Blocks, tokens: &[u32], longest: usize) -> (Table, Option<Copy>) {
        match blocks.admit(tokens, tokens.len() - 1, longest) {
            Admission::Admitted(table, copy) => (table, copy),
            other => panic!("not admitted: {other:?}"),
        }
    }

    fn sequence(count: usize, salt: u32) -> Vec<u32> {
        (0..count as u32)
            .map(|index| index * 7 + salt * u32::from(index >= 40))
            .collect()
    }

    /// Catches: a prefix that is forgotten when its sequence ends, or shared beyond where two part.
    #[test]
    fn a_prefix_is_computed_once() {
        let mut blocks = Blocks::new(16);
        let first = sequence(100, 1);
        let (mut table, copy) = admitted(&mut blocks, &first, 110);
        assert_eq!((table.computed, copy), (0, None));
        let twin = blocks.admit(&first, first.len() - 1, 110);
        assert!(matches!(twin, Admission::PrefixUnderWay), "{twin:?}");
        blocks.computed(&mut table, 100);
        blocks.finish(table);
        // The same again: all but the last token is there.
        let (same, copy) = admitted(&mut blocks, &first, 110);
        assert_eq!(same.computed, 99);
        assert!(copy.is_some());
        // Another that parts at token 40: one whole block, and eight tokens of the next.
        let (other, copy) = admitted(&mut blocks, &sequence(90, 2), 100);
        assert_eq!(other.computed, 40);
        assert_eq!(other.blocks[0], same.blocks[0]);
        assert_eq!(copy.unwrap().to, other.blocks[1]);
        assert_ne!(other.blocks[1], same.blocks[1]);
    }

    /// Catches: tokens that were admitted but never computed taken for a prefix.
    #[test]
    fn what_was_not_computed_is_no_prefix() {
        let mut blocks = Blocks::new(16);
        let tokens = sequence(100, 1);
        let (mut table, _) = admitted(&mut blocks, &tokens, 100);
        blocks.computed(&mut table, 50);
        blocks.finish(table);
        assert_eq!(admitted(&mut blocks, &tokens, 100).0.computed, 50);
    }

    /// Catches: room that leaks, blocks with two owners, promises that cannot be kept: over a random
    /// history every admitted sequence reaches its full length, whatever others do, and at the end
    /// everything can be had again.
    #[test]
    fn promises_are_kept() {
        for seed in 0..30 {
            let mut rng = Seed::new(seed).rng();
            let mut blocks = Blocks::new(24);
            let mut live: Vec<(Table, Vec<u32>, usize)> = Vec::new();
            for _ in 0..400 {
                let length = rng.random_range(2..200);
                let tokens = sequence(length, rng.random_range(0..4));
                let longest = length + rng.random_range(0..60);
                if let Admission::Admitted(table, _) = blocks.admit(&tokens, length - 1, longest) {
                    live.push((table, tokens, longest));
                }
                for (table, tokens, longest) in &mut live {
                    blocks.computed(table, tokens.len());
                    if tokens.len() < *longest && rng.random_bool(0.8) {
                        let token = rng.random_range(0..3);
                        blocks.push(table, tokens.len(), token);
                        tokens.push(token);
                    }
                }
                if live.len() > 1 && rng.random_bool(0.6) {
                    let (mut table, tokens, _) = live.swap_remove(rng.random_range(0..live.len()));
                    blocks.computed(&mut table, tokens.len());
                    blocks.finish(table);
                }
                // A block of two tables holds the same prefix in both.
                for (index, (one, one_tokens, _)) in live.iter().enumerate() {
                    for (other, other_tokens, _) in &live[index + 1..] {
                        for (place, block) in one.blocks.iter().enumerate() {
                            if let Some(at) = other.blocks.iter().position(|other| other == block) {
                                assert_eq!(at, place);
                                let end = (place + 1) * BLOCK;
                                assert_eq!(one_tokens[..end], other_tokens[..end]);
                            }
                        }
                    }
                }
            }
            live.into_iter().for_each(|(table, ..)| blocks.finish(table));
            assert_eq!((blocks.promised, blocks.free.len() + blocks.idle), (0, 24));
            let all: Vec<u32> = (1000..1000 + 24 * BLOCK as u32).collect();
            assert_eq!(admitted(&mut blocks, &all, all.len()).0.blocks.len(), 24);
        }
    }
}
