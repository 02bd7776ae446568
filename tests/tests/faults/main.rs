//! Every fault on its own, under load: no hit is ever wrong, and the system is back by itself.

mod every;
