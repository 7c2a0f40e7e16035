//! What the kernel knows about a thread's own memory, as far as it tells from outside.

use nix::errno::Errno;

use super::error::TraceError;
use super::sys;
use super::thread::Stopped;

impl Stopped {
    /// Address and length of the area that the thread has registered with rseq(2), None if it has none, or if the kernel is older
    /// than 5.13 and does not tell.
    ///
    /// # Errors
    /// [`TraceError::Ended`] when it has been killed, [`TraceError::Ptrace`] otherwise.
    pub fn rseq_area(&self) -> Result<Option<(u64, u64)>, TraceError> {
        let configuration = sys::rseq_configuration(self.tid())
            .map_err(|errno| self.failed("ask for the rseq area of", errno))?;
        Ok(configuration
            .filter(|configuration| configuration.address != 0)
            .map(|configuration| (configuration.address, u64::from(configuration.size))))
    }

    /// Address of the head of the thread's list of robust futexes (get_robust_list(2)), None if it has none, or if the kernel is
    /// built without them.
    ///
    /// # Errors
    /// [`TraceError::Ended`] when it has been killed, [`TraceError::Ptrace`] otherwise.
    pub fn robust_list(&self) -> Result<Option<u64>, TraceError> {
        match sys::robust_list(self.tid()) {
            Ok(0) | Err(Errno::ENOSYS) => Ok(None),
            Ok(head) => Ok(Some(head)),
            Err(errno) => Err(self.failed("ask for the robust futexes of", errno)),
        }
    }
}
