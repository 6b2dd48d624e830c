//! Numbered slots that are used again.
use std::ops::{Index, IndexMut};

/// Values by small numbers, which stay valid until the value is removed.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            items: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.items[at as usize] = Some(value);
                at
            }
            None => {
                self.items.push(Some(value));
                u32::try_from(self.items.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    pub(crate) fn remove(&mut self, at: u32) {
        if self.items[at as usize].take().is_some() {
            self.free.push(at);
        }
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.items.get(at as usize)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(&self.items)
            .filter_map(|(at, item)| Some((at, item.as_ref()?)))
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    #[allow(
        clippy::expect_used,
        reason = "numbers are given back before their value goes"
    )]
    fn index(&self, at: u32) -> &T {
        self.items[at as usize].as_ref().expect("a number in use")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[allow(
        clippy::expect_used,
        reason = "numbers are given back before their value goes"
    )]
    fn index_mut(&mut self, at: u32) -> &mut T {
        self.items[at as usize].as_mut().expect("a number in use")
    }
}
