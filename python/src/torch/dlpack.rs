//! Memory handed to Python as a DLPack capsule, without a copy and without torch.
//!
//! The structs are those of DLPack's C header (version 0, which every torch reads); the consumer renames the capsule and calls
//! the deleter when it is done, from any thread and without the interpreter's lock.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use arrow::buffer::Buffer;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// What a capsule is called until somebody takes the tensor out of it.
const NAME: &CStr = c"dltensor";
/// DLPack's number for the memory of the host.
const CPU: i32 = 1;

/// The kind of numbers, as DLPack counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Int = 0,
    UInt = 1,
    Float = 2,
}

/// An array of numbers, row after row.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) data: Buffer,
    pub(super) code: Code,
    /// Bits of a number: 8, 16, 32 or 64.
    pub(super) bits: u8,
    /// Length of each dimension; their product is as many numbers as the data has.
    pub(super) shape: Vec<i64>,
}

#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Borrowed {
    data: *mut c_void,
    device: Device,
    dimensions: i32,
    data_type: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: Borrowed,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// What a [`Managed`] points into; freed with it.
struct Owner {
    _data: Buffer,
    shape: Vec<i64>,
}

impl Tensor {
    /// The capsule of this tensor; its memory is let go of when the last tensor made of it is.
    ///
    /// # Errors
    /// Where Python has no memory for the capsule.
    #[expect(unsafe_code, reason = "DLPack is a C struct behind a pointer")]
    pub(super) fn capsule<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let managed = NonNull::from(Box::leak(self.managed()));
        // SAFETY: the pointer is of a leaked box, which the deleter frees: called by whoever takes the tensor, else by the
        // capsule's destructor.
        let capsule =
            unsafe { PyCapsule::new_with_pointer_and_destructor(py, managed.cast(), NAME, Some(drop_capsule)) };
        if capsule.is_err() {
            // SAFETY: nobody else has the pointer.
            unsafe { delete(managed.as_ptr()) };
        }
        capsule
    }

    fn managed(self) -> Box<Managed> {
        let data = self.data.as_ptr().cast_mut().cast();
        let mut owner = Box::new(Owner {
            _data: self.data,
            shape: self.shape,
        });
        Box::new(Managed {
            tensor: Borrowed {
                data,
                device: Device { kind: CPU, id: 0 },
                dimensions: i32::try_from(owner.shape.len()).unwrap_or(0),
                data_type: DataType {
                    code: match self.code {
                        Code::Int => 0,
                        Code::UInt => 1,
                        Code::Float => 2,
                    },
                    bits: self.bits,
                    lanes: 1,
                },
                shape: owner.shape.as_mut_ptr(),
                // None: row after row.
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            },
            context: Box::into_raw(owner).cast(),
            deleter: Some(delete),
        })
    }
}

/// Frees a tensor and lets go of its memory.
#[expect(unsafe_code, reason = "called by C")]
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: DLPack calls this once, with the pointer that the capsule held; both boxes were leaked by `Tensor::capsule`.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Owner>()));
    }
}

/// Frees the tensor of a capsule that nobody took it out of.
#[expect(unsafe_code, reason = "called by C")]
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with a capsule of ours, which has this name exactly as long as the tensor in it is ours.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}
