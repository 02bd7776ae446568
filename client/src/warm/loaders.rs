//! Who computes which keys.

use std::sync::Arc;

use crate::codec::Typed;
use crate::load::Load;
use crate::loader::{Loader, LoaderError, LoaderFuture, Value, boxed};

/// Loaders by the prefix of the keys that they compute.
#[derive(Default)]
pub(super) struct Loaders(Vec<Registered>);

/// A loader that can be called again and again.
pub(super) struct Registered {
    prefix: Box<str>,
    pub typed: Typed,
    loader: Box<dyn Fn() -> Loader + Send + Sync>,
}

impl Registered {
    pub fn new<T: Value, E: LoaderError, R: LoaderFuture<Option<T>, E>>(
        prefix: String,
        loader: impl Fn(Load) -> R + Send + Sync + 'static,
    ) -> Registered {
        let loader = Arc::new(loader);
        let again = move || {
            let loader = Arc::clone(&loader);
            boxed(move |load| loader(load))
        };
        Registered { prefix: prefix.into(), typed: Typed::of::<T>(), loader: Box::new(again) }
    }

    /// The loader, for one load.
    pub fn loader(&self) -> Loader {
        (self.loader)()
    }
}

impl Loaders {
    /// Takes the place of another of the same prefix.
    pub fn add(&mut self, registered: Registered) {
        self.0.retain(|other| other.prefix != registered.prefix);
        self.0.push(registered);
        self.0.sort_by_key(|registered| std::cmp::Reverse(registered.prefix.len()));
    }

    /// The one with the longest prefix of the key.
    pub fn of(&self, key: &str) -> Option<&Registered> {
        self.0.iter().find(|registered| key.starts_with(&*registered.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Ancestry;

    #[tokio::test]
    async fn the_longest_prefix_wins_and_the_last_of_two() {
        let mut loaders = Loaders::default();
        for (prefix, answer) in [("page:", 1), ("page:product:", 2), ("price:", 0), ("price:", 3)] {
            let load = move |_: Load| async move { Ok::<_, std::io::Error>(Some(answer)) };
            loaders.add(Registered::new(prefix.into(), load));
        }
        for (key, expected) in
            [("page:product:4", Some(2)), ("page:home", Some(1)), ("price:7", Some(3)), ("pag", None)]
        {
            let answer = match loaders.of(key) {
                // Twice: a loader is not used up.
                Some(registered) => {
                    let load = || (registered.loader())(Load::new(key, 0, None, Ancestry::default()));
                    load().await.unwrap();
                    load().await.unwrap().and_then(|value| value.downcast::<i32>().ok()).map(|answer| *answer)
                }
                None => None,
            };
            assert_eq!(answer, expected, "{key}");
        }
    }
}
