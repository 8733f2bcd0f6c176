package hugepage

import "golang.org/x/sys/unix"

// advise asks the host for huge pages behind b, which is made of whole ones and holds zeros. It gets
// them when it is touched next: what small pages it has, because it was used before, go. A host that
// has none to spare gives small ones.
func advise(b []byte) {
	if unix.Madvise(b, unix.MADV_HUGEPAGE) == nil {
		_ = unix.Madvise(b, unix.MADV_DONTNEED)
	}
}
