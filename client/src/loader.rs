//! What a loader may be: any function from a [`Load`] to a future of a value, or of an error.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cached::AnyValue;
use crate::error::Error;
use crate::load::Load;

/// What can be cached: anything that serde knows, and that threads can share.
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Page(String);
///
/// fn is_value<T: cachetag_client::Value>() {}
/// is_value::<Page>();
/// ```
pub trait Value: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Value for T {}

/// What a loader may fail with: any error, or a text. It comes back as it was: [`Error::loader_error`].
///
/// ```
/// fn is_error<E: cachetag_client::LoaderError>() {}
/// is_error::<std::io::Error>();
/// is_error::<&str>();
/// ```
pub trait LoaderError: Into<Box<dyn StdError + Send + Sync>> {}

impl<E: Into<Box<dyn StdError + Send + Sync>>> LoaderError for E {}

/// What a loader returns: any future of a value or an error that can go to another thread.
///
/// ```
/// fn is_loader<T, E>(_: impl cachetag_client::LoaderFuture<T, E>) {}
/// is_loader(async { Ok::<i32, std::io::Error>(34) });
/// ```
pub trait LoaderFuture<T, E>: Future<Output = Result<T, E>> + Send + 'static {}

impl<T, E, R: Future<Output = Result<T, E>> + Send + 'static> LoaderFuture<T, E> for R {}

/// A loader of any type, until it is called.
pub(crate) type Loader = Box<dyn FnOnce(Load) -> Pin<Box<dyn Future<Output = Result<AnyValue, Error>> + Send>> + Send>;

/// A loader of any type.
pub(crate) fn boxed<T: Value, E: LoaderError, R: LoaderFuture<Option<T>, E>>(
    loader: impl FnOnce(Load) -> R + Send + 'static,
) -> Loader {
    Box::new(move |load| {
        Box::pin(async move {
            let value = loader(load).await.map_err(|error| Error::loader(error))?;
            Ok(value.map(|value| Arc::new(value) as Arc<dyn std::any::Any + Send + Sync>) as AnyValue)
        })
    })
}
