package model

// set is a set of replicas or of writes, one bit each.
type set uint8

func only(i int) set            { return 1 << i }
func (s set) has(i int) bool    { return s&only(i) != 0 }
func (s set) within(t set) bool { return s&^t == 0 }

// view is one committed view.
type view struct {
	acting, members    set // all members are targets
	token, coordinator uint8
	unclean            bool
}

func (v *view) writers() set { return v.acting | v.members }

// content is what a replica holds of the block: the write and its stamp, and
// the writes it knows to have been applied (their origins).
type content struct {
	stamp, write uint8
	origins      set
}

type life uint8

const (
	up life = iota
	down
	mute // runs, but no view lists this life yet
)

type fill uint8

const (
	unfilled fill = iota
	fetched       // has read from an acting replica, not yet stored
	filled
)

type replica struct {
	life    life
	view    uint8 // the newest it has adopted, durably
	mem     content
	disk    content // what survives a power loss
	settled bool    // as a target of this view it has been written or filled
	fill    fill
	source  content // what it fetched
	lost    bool    // its disk failed: nobody can read mem, and it was not demoted yet
}

type phase uint8

const (
	idle phase = iota
	sealing
	repairing
	serving
)

type gateway struct {
	view    uint8
	phase   phase
	lastSeq uint8
	seq     [maxWrites + 1]uint8 // stamps given; 0: not sent by this gateway
	stored  set                  // writes committed here
	sealed  set                  // replicas that answered while sealing
	best    content              // the newest of their answers
	origins set                  // writes known to be applied from before
	read    read
	flush   flush
}

type read struct {
	open  bool
	value uint8
	seen  set // writes known when it began
}

type flush struct {
	open   bool
	acks   set
	covers set
}

// message is a write on its way to the writers of one view.
type message struct {
	stamp uint8 // 0: not sent
	acks  set
}

// repair is a reconciliation's write to the acting replicas of one view.
type repair struct {
	open    bool
	content content
	acks    set
}

// state is the whole system. It is comparable, and copied for every step.
type state struct {
	now      uint8 // number of the newest view
	views    [maxViews + 1]view
	replicas [maxReplicas]replica
	gateways [gateways]gateway
	messages [maxWrites + 1][maxViews + 1]message
	repairs  [maxViews + 1]repair
	invoked  uint8                // writes are numbered from 1
	owner    [maxWrites + 1]uint8 // the gateway of the client
	pending  set                  // writes whose client waits
	facts    facts
	spent    spent
}

// spent counts events against the bounds.
type spent struct {
	reads, flushes, kills, power, blackouts, disks, appointments, removals, promotions uint8
}

func (s *state) current() *view { return &s.views[s.now] }

// initial is view 1: the first replicas act, gateway 0 coordinates.
func initial(b Bounds) *state {
	s := &state{now: 1}
	s.views[1] = view{acting: only(b.Acting) - 1, members: only(b.Replicas) - 1, token: 1}
	for r := range s.replicas {
		if r < b.Replicas {
			s.replicas[r].view = 1
		} else {
			s.replicas[r].life = down
		}
	}
	for g := range s.gateways {
		s.gateways[g].view = 1
	}
	s.gateways[0].phase = serving
	s.facts.volatile = b.PowerLosses+b.Blackouts+b.DiskLosses > 0
	s.facts.known = only(0)
	s.facts.flushed = only(0)
	return s
}
