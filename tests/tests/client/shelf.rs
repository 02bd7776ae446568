use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cachetag_client::third::{Answer, Layer, Stored};

/// A third layer that keeps everything, and is never told of any change.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<HashMap<String, Stored>>>);

impl Shelf {
    pub fn len(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    /// Changes what is kept under a key.
    pub fn spoil(&self, key: &str, how: impl FnOnce(&mut Stored)) {
        how(self.0.lock().expect("no panic").get_mut(key).expect("it is kept"));
    }
}

impl Layer for Shelf {
    fn name(&self) -> &str {
        "shelf"
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>> {
        let found = self.0.lock().expect("no panic").get(key).cloned();
        Box::pin(async move { Ok(found) })
    }

    fn put<'a>(&'a self, key: &'a str, stored: Stored) -> Answer<'a, ()> {
        self.0.lock().expect("no panic").insert(key.to_owned(), stored);
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.0.lock().expect("no panic").remove(key);
        Box::pin(async { Ok(()) })
    }
}
