//! What keeps a slow or dead layer from taking the application with it.
