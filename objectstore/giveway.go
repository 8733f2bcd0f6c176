package objectstore

import "runtime"

// destageNice is how much less of a processor that others want a destage gets: a third of
// what a thread does that serves requests. It needs a tenth, and nobody waits for it
// before the log is full, where the others wait.
const destageNice = 5

// giveWay keeps the goroutine on a thread of its own, which ends with it, at a lower
// priority than the others. Beside a destage of 100 ms in each of three stores on two
// processors requests waited for one up to 70 ms.
func giveWay() {
	runtime.LockOSThread()
	lowerPriority(destageNice)
}
