package objectstore

import "unsafe"

// slabBytes is how much room a slab makes at once.
const slabBytes = 16 << 10

// slab keeps copies of short slices in long ones: of such a destage needs some for each
// pile, and nothing of them after the round.
type slab[T any] struct{ room []T }

// keep is a copy of a slice, to which nothing is appended in place; nil of an empty one.
func (s *slab[T]) keep(of []T) []T {
	if len(of) == 0 {
		return nil
	}
	s.grow(len(of))
	at := len(s.room)
	s.room = append(s.room, of...)
	return s.room[at:len(s.room):len(s.room)]
}

// one is a pointer to a copy.
func (s *slab[T]) one(of T) *T {
	s.grow(1)
	s.room = append(s.room, of)
	return &s.room[len(s.room)-1]
}

// grow makes room for n more, which what is there need not be moved for.
func (s *slab[T]) grow(n int) {
	if cap(s.room)-len(s.room) < n {
		s.room = make([]T, 0, max(slabBytes/int(unsafe.Sizeof(*new(T))), n))
	}
}
