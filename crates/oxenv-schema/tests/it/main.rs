//! The bounded validator beside the one that it is made of.

mod schemas_agree;
