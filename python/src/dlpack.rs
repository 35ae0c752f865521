//! Numbers in place for `from_dlpack`: the structures of DLPack 1.0, whose layout is their ABI.

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// The machine's own memory: kDLCPU, and its only device.
pub(crate) const DEVICE: (i32, i32) = (1, 0);

const NAME: &CStr = c"dltensor";
const VERSIONED_NAME: &CStr = c"dltensor_versioned";
/// `DLPACK_FLAG_BITMASK_READ_ONLY`: Arrow memory is shared, and not to be written to.
const READ_ONLY: u64 = 1;

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct Versioned {
    version: (u32, u32),
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: Tensor,
}

/// What the tensor's pointers refer to.
struct Context {
    _array: ArrayRef,
    shape: [i64; 1],
    strides: [i64; 1],
}

/// Refuses what would need a copy, or another device.
pub(crate) fn refuse_what_is_not_here(
    stream: Option<&Bound<'_, PyAny>>,
    device: Option<(i32, i32)>,
    copy: Option<bool>,
) -> PyResult<()> {
    if stream.is_some() {
        return Err(PyBufferError::new_err("memory of the CPU has no streams"));
    }
    if device.is_some_and(|device| device != DEVICE) {
        return Err(PyBufferError::new_err(
            "the memory is the CPU's, and is not copied elsewhere",
        ));
    }
    if copy == Some(true) {
        return Err(PyBufferError::new_err(
            "this hands memory over in place; copy what comes of it",
        ));
    }
    Ok(())
}

/// The array's numbers as a tensor in a capsule.
///
/// # Errors
/// A type that is not a number's, and nulls.
#[expect(unsafe_code, reason = "DLPack hands over raw pointers")]
pub(crate) fn capsule<'py>(py: Python<'py>, array: &ArrayRef, versioned: bool) -> PyResult<Bound<'py, PyCapsule>> {
    let (mut tensor, context) = describe(array)?;
    let mut context = Box::new(context);
    tensor.shape = context.shape.as_mut_ptr();
    tensor.strides = context.strides.as_mut_ptr();
    let context = Box::into_raw(context).cast();
    if versioned {
        let managed = Box::new(Versioned {
            version: (1, 0),
            context,
            deleter: Some(delete_versioned),
            flags: READ_ONLY,
            tensor,
        });
        let pointer = NonNull::from(Box::leak(managed)).cast();
        // SAFETY: the pointer is valid until its deleter ran, which whoever takes the tensor calls, or else the destructor.
        unsafe { PyCapsule::new_with_pointer_and_destructor(py, pointer, VERSIONED_NAME, Some(unused_versioned)) }
    } else {
        let managed = Box::new(Managed {
            tensor,
            context,
            deleter: Some(delete),
        });
        let pointer = NonNull::from(Box::leak(managed)).cast();
        // SAFETY: as above.
        unsafe { PyCapsule::new_with_pointer_and_destructor(py, pointer, NAME, Some(unused)) }
    }
}

fn describe(array: &ArrayRef) -> PyResult<(Tensor, Context)> {
    if array.null_count() > 0 {
        return Err(PyBufferError::new_err(
            "there are nulls among the values, for which DLPack has no form",
        ));
    }
    let (code, bits) = kind(array.data_type())?;
    let data = array.to_data();
    let width = usize::from(bits / 8);
    let start = data.buffers().first().map_or(ptr::null(), |buffer| buffer.as_ptr());
    let length = i64::try_from(array.len()).map_err(|_| PyBufferError::new_err("too many values"))?;
    let tensor = Tensor {
        // The values of a slice begin at its offset, within the buffer.
        data: start.wrapping_add(data.offset() * width).cast_mut().cast(),
        device_type: DEVICE.0,
        device_id: DEVICE.1,
        ndim: 1,
        code,
        bits,
        lanes: 1,
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    let context = Context {
        _array: Arc::clone(array),
        shape: [length],
        strides: [1],
    };
    Ok((tensor, context))
}

/// DLPack's code and bits of a number's type.
fn kind(data_type: &DataType) -> PyResult<(u8, u8)> {
    const INT: u8 = 0;
    const UINT: u8 = 1;
    const FLOAT: u8 = 2;
    Ok(match data_type {
        DataType::Int8 => (INT, 8),
        DataType::Int16 => (INT, 16),
        DataType::Int32 => (INT, 32),
        DataType::Int64 => (INT, 64),
        DataType::UInt8 => (UINT, 8),
        DataType::UInt16 => (UINT, 16),
        DataType::UInt32 => (UINT, 32),
        DataType::UInt64 => (UINT, 64),
        DataType::Float16 => (FLOAT, 16),
        DataType::Float32 => (FLOAT, 32),
        DataType::Float64 => (FLOAT, 64),
        other => {
            let words = format!("{other} is not a number's type that DLPack has");
            return Err(PyTypeError::new_err(words));
        }
    })
}

#[expect(unsafe_code, reason = "called from C with what `capsule` made")]
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: both were made by `Box` in `capsule`, and this is called once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Context>()));
    }
}

#[expect(unsafe_code, reason = "called from C with what `capsule` made")]
unsafe extern "C" fn delete_versioned(managed: *mut Versioned) {
    // SAFETY: as in `delete`.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Context>()));
    }
}

/// The capsule goes, and nobody took its tensor: whoever takes it gives the capsule another name.
#[expect(unsafe_code, reason = "called by the interpreter with the capsule")]
unsafe extern "C" fn unused(capsule: *mut ffi::PyObject) {
    // SAFETY: the capsule is whole, and under this name it holds what `capsule` put there.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}

#[expect(unsafe_code, reason = "called by the interpreter with the capsule")]
unsafe extern "C" fn unused_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as in `unused`.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED_NAME.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED_NAME.as_ptr()).cast());
        }
    }
}
