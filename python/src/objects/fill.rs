//! Arrays of references to objects.

use std::mem;
use std::ptr;

use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::encode::Encoded;
use super::make::Make;

/// After so many objects were made, other threads of the interpreter have their turn, and signals are looked at.
const TURN: usize = 1 << 14;

/// An array of objects that is being filled. Nobody else has it meanwhile.
pub(super) struct Slots<'py> {
    array: Bound<'py, PyArray1<Py<PyAny>>>,
    filled: usize,
}

impl<'py> Slots<'py> {
    #[expect(
        unsafe_code,
        reason = "NumPy's own ways to such an array fill it first, with a reference in each row"
    )]
    pub(super) fn new(py: Python<'py>, rows: usize) -> Self {
        // SAFETY: an array of objects begins as null pointers, which NumPy takes for `None` and does not free.
        let array = unsafe { PyArray1::new(py, rows, false) };
        Self { array, filled: 0 }
    }

    /// What is not filled yet: null pointers, which are Rust's `None`.
    #[expect(unsafe_code, reason = "the memory of an array that nobody else has")]
    fn empty(&mut self) -> &mut [Option<Py<PyAny>>] {
        // SAFETY: the array was made here, of so many pointers one after the other; each is null, or owns a reference.
        let slots = unsafe { std::slice::from_raw_parts_mut(self.array.data().cast(), self.array.len()) };
        &mut slots[self.filled..]
    }

    /// The next rows have the object of their value, which rows of equal values share; nulls have `None`.
    ///
    /// # Errors
    /// As in [`Self::make`].
    #[expect(
        unsafe_code,
        reason = "references are counted value by value and not row by row, which is many times as fast"
    )]
    pub(super) fn share<V: Copy>(&mut self, encoded: &Encoded<V>, make: &mut impl Make<V>) -> PyResult<()> {
        let py = self.array.py();
        let mut by_number = vec![py.None()];
        for values in encoded.values.chunks(TURN) {
            for value in values {
                by_number.push(make.make(*value)?);
            }
            take_turns(py)?;
        }
        for (object, count) in by_number.iter().zip(&encoded.counts) {
            for _ in 0..*count {
                mem::forget(object.clone_ref(py));
            }
        }
        let (slots, numbers) = (self.empty(), &encoded.numbers);
        py.detach(|| {
            for (slot, number) in slots.iter_mut().zip(numbers) {
                // SAFETY: the copy is one of the references that were counted above, of which there are as many as rows of
                // this number; the slot held none.
                unsafe { ptr::write(slot, Some(ptr::read(&raw const by_number[*number as usize]))) };
            }
        });
        self.filled += numbers.len();
        Ok(())
    }

    /// The next rows have an object each; nulls have `None`.
    ///
    /// # Errors
    /// An object that cannot be made, an interrupt.
    pub(super) fn make<V>(
        &mut self,
        rows: &mut impl Iterator<Item = Option<V>>,
        make: &mut impl Make<V>,
    ) -> PyResult<()> {
        let py = self.array.py();
        for slots in self.empty().chunks_mut(TURN) {
            for (slot, row) in slots.iter_mut().zip(&mut *rows) {
                *slot = Some(row.map_or_else(|| Ok(py.None()), |value| make.make(value))?);
            }
            take_turns(py)?;
        }
        self.filled = self.array.len();
        Ok(())
    }

    pub(super) fn into_array(self) -> Bound<'py, PyArray1<Py<PyAny>>> {
        self.array
    }
}

/// Lets other threads of the interpreter go on, and looks at signals.
fn take_turns(py: Python<'_>) -> PyResult<()> {
    py.detach(|| ());
    py.check_signals()
}
