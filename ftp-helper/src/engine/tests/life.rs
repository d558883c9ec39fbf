//! Beginnings, ends, time, memory, and the kernel's answers.

use super::*;
