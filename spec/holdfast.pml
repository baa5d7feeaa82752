/*
 * Lease, pin, break, cut, crash, reclaim and reuse, for one range of one file. README.md says what is modelled and what is not.
 *
 * Each thing that can happen is a guard (CAN_...) and an inline that does it. The processes at the end choose freely among what can
 * happen; with -DREPLAY one process does what a run of layout.Machine did, and compares.
 */

#define S 2 /* sessions */
#define D 2 /* blocks of the device */
#define NOBODY 2 /* the caller of a change that is no session */

#ifndef ACQUIRES
#define ACQUIRES 3
#endif
#ifndef CHANGES
#define CHANGES 2
#endif

/* What a session has of the range. UNCLAIMED: exposed by a server that has crashed, and not reclaimed yet. */
#define NONE 0
#define LIVE 1
#define RETURNING 2
#define CUTTING 3
#define FAILED 4
#define UNCLAIMED 5

/* How far the change is. */
#define IDLE 0
#define HELD 1
#define BREAKING 2
#define APPLYING 3

/* on_hold */
#define FAIL 0
#define WAIT 1
#define REVOKE 2
#define DEFER 3

/* Whose a block of the device is. FREEING: freed, and that is not durable yet. */
#define FREE 0
#define FILE 1
#define OTHER 2
#define FREEING 3
#define ORPHAN 4

typedef Session {
	byte lease;
	bit exclusive, unbreakable, mapped, closed, pinned;
	bit dead, context;
	byte orphan;             /* the block + 1 that its pin holds after the file gave it up */
	bit saidMapped, saidPin; /* durable: what a server that has crashed had exposed */
	byte window, reach;      /* the block + 1 that can be touched, whatever the server thinks: by a window, by a pin */
};

Session s[S];
byte change = IDLE, caller = NOBODY, policy = FAIL;
bit abandoned;
byte at = 1;  /* the block + 1 of the range, 0: a hole */
byte own[D];
byte lease0, lease1, at0; /* before the last submission */

byte acquires = ACQUIRES, changes = CHANGES, crashes = 1, failures = 1, deaths = 1, abandons = 1, reuses = 1;

#ifdef REPLAY
#define SPEND(n)
#define LEFT(n) true
#else
#define SPEND(n) n--
#define LEFT(n) (n > 0)
#endif

/* --- what is in the way */

#define OTHERS(i) (i != caller)
#define HAS(i) (s[i].lease != NONE)
#define PINNED(i) (s[i].pinned || s[i].lease == UNCLAIMED)
#define FIRM(i) (s[i].unbreakable && s[i].lease == LIVE)
#ifdef BUG_PINS_IGNORED
#define HOLDS(i) FIRM(i)
#else
#define HOLDS(i) (PINNED(i) || FIRM(i))
#endif
#define OTHERS_HOLD ((OTHERS(0) && HOLDS(0)) || (OTHERS(1) && HOLDS(1)))
#define OTHERS_HAVE ((OTHERS(0) && HAS(0)) || (OTHERS(1) && HAS(1)))
#define OTHERS_PIN ((caller != 0 && PINNED(0)) || (caller != 1 && PINNED(1)))
#define OWN_PINS ((caller == 0 && PINNED(0)) || (caller == 1 && PINNED(1))) /* what it has not reclaimed is its own too */
#define TOUCHED(b) (s[0].window == b + 1 || s[0].reach == b + 1 || s[1].window == b + 1 || s[1].reach == b + 1)

#ifdef BUG_WAITS_FOR_ITSELF
#define DEADLOCK false
#define WAITED_FOR (OTHERS_HOLD || OWN_PINS)
#else
#define DEADLOCK (OWN_PINS && (policy != FAIL || !OTHERS_PIN))
#define WAITED_FOR OTHERS_HOLD
#endif

/* --- leases and pins */

#ifdef BUG_GRANT_UNDER_BARRIER
#define NO_BARRIER(i) true
#else
#define NO_BARRIER(i) (change == IDLE || caller == i)
#endif
#define FITS(i, x) (s[1 - i].lease == NONE || (!x && !s[1 - i].exclusive && s[1 - i].lease != UNCLAIMED))
#define CAN_ACQUIRE(i, x) (!s[i].dead && !HAS(i) && FITS(i, x) && NO_BARRIER(i))

inline acquire(i, x, u) {
	assert(change == IDLE || caller == i); /* no grant under a barrier */
	s[i].lease = LIVE;
	s[i].exclusive = x;
	s[i].unbreakable = u
}

#ifdef BUG_PIN_UNDER_BARRIER
#define PIN_BARRED false
#else
#define PIN_BARRED (change != IDLE)
#endif
#define CAN_PIN(i) (s[i].lease == LIVE && !s[i].closed && !s[i].dead && s[i].context && !s[i].pinned && !s[i].orphan && at != 0 && !PIN_BARRED)

inline pin(i) {
	assert(change == IDLE);
	s[i].pinned = 1;
#ifndef BUG_NOT_DURABLE
	s[i].saidPin = 1;
#endif
	s[i].reach = at
}

#define CAN_MAP(i) (s[i].lease == LIVE && !s[i].closed && !s[i].dead && !s[i].mapped && at != 0)

inline map(i) {
	s[i].mapped = 1;
#ifndef BUG_NOT_DURABLE
	s[i].saidMapped = 1;
#endif
	s[i].window = at
}

inline clean(i) { /* nothing is left of the lease */
	s[i].lease = NONE;
	s[i].exclusive = 0;
	s[i].unbreakable = 0;
	s[i].mapped = 0;
	s[i].closed = 0
}

inline release(i) {
	if
#ifndef BUG_NOT_DETACHED
	:: s[i].lease == LIVE && s[i].mapped -> s[i].lease = RETURNING
#endif
	:: s[i].lease == LIVE && !s[i].mapped -> clean(i)
#ifdef BUG_NOT_DETACHED
	:: s[i].lease == LIVE && s[i].mapped -> clean(i)
#endif
	:: else
	fi
}

#define CAN_RETURN(i) (s[i].lease == LIVE && !s[i].pinned && !s[i].closed && !s[i].dead)

inline dropPin(i) {
	s[i].pinned = 0;
	s[i].saidPin = 0;
	s[i].reach = 0;
	if
	:: s[i].closed -> release(i)
	:: else
	fi
}

inline closeLease(i) {
	s[i].closed = 1;
	if
	:: !s[i].pinned -> release(i)
	:: s[i].pinned && change == BREAKING && OTHERS(i) && s[i].lease == LIVE -> s[i].lease = CUTTING
	:: else
	fi
}

/* --- changes */

inline ask(i) {
	if
	:: OTHERS(i) && s[i].lease == LIVE && (s[i].closed || s[i].dead) -> s[i].lease = CUTTING
	:: else
	fi
}

inline deferPin(i) {
	if
	:: OTHERS(i) && s[i].pinned -> s[i].orphan = s[i].reach; s[i].pinned = 0; s[i].unbreakable = 0
	:: OTHERS(i) && !s[i].pinned -> s[i].unbreakable = 0
	:: else
	fi
}

/* What can be served is. It follows everything that makes something less. */
inline advance() {
	if
	:: change == HELD && !WAITED_FOR && !OTHERS_HAVE -> change = APPLYING
	:: change == HELD && !WAITED_FOR && OTHERS_HAVE -> change = BREAKING; ask(0); ask(1)
	:: change == BREAKING && !OTHERS_HAVE && !abandoned -> change = APPLYING
	:: change == BREAKING && !OTHERS_HAVE && abandoned -> change = IDLE; abandoned = 0; caller = NOBODY; policy = FAIL
	:: else
	fi;
	assert(change != APPLYING || (!OTHERS_HAVE && !OTHERS_PIN && !OWN_PINS))
}


/* Others that are unclaimed can neither be asked nor deferred: they are held. */
#define LOST ((OTHERS(0) && s[0].lease == UNCLAIMED) || (OTHERS(1) && s[1].lease == UNCLAIMED))

inline submit(c, p) {
	lease0 = s[0].lease; lease1 = s[1].lease; at0 = at;
	caller = c;
	policy = p;
#ifdef BUG_REFUSED_TOO_LATE
	if
	:: OTHERS(0) && s[0].lease == LIVE && !HOLDS(0) -> s[0].lease = CUTTING
	:: else
	fi;
#endif
	if
	:: DEADLOCK || (OTHERS_HOLD && p == FAIL) || (LOST && p > WAIT) ->
		caller = NOBODY; policy = FAIL;
		assert(lease0 == s[0].lease && lease1 == s[1].lease && at0 == at) /* a refused change alters nothing */
	:: else ->
		if
		:: p == DEFER && OTHERS_HOLD -> deferPin(0); deferPin(1)
		:: else
		fi;
		if
		:: WAITED_FOR && p < REVOKE -> change = HELD
		:: else -> change = BREAKING; ask(0); ask(1); advance()
		fi
	fi;
	lease0 = 0; lease1 = 0; at0 = 0
}

#define WOULD_REFUSE(c, p) (((c == 0 && PINNED(0)) || (c == 1 && PINNED(1))) && (p != FAIL || \
	!((c != 0 && PINNED(0)) || (c != 1 && PINNED(1)))) || (p == FAIL && ((c != 0 && HOLDS(0)) || (c != 1 && HOLDS(1)))))

inline timeUp(i) { s[i].lease = CUTTING }
#define CAN_TIME_OUT(i) (change == BREAKING && OTHERS(i) && s[i].lease == LIVE)

inline abandon() {
	if
	:: change == HELD -> change = IDLE; caller = NOBODY; policy = FAIL
	:: change == BREAKING -> abandoned = 1
	:: else
	fi
}

inline apply() {
	if
	:: at != 0 ->
		if
		:: s[0].orphan == at || s[1].orphan == at -> own[at - 1] = ORPHAN
		:: else -> own[at - 1] = FREEING
		fi;
		if /* the caller's own window shows a hole now */
		:: caller != NOBODY && s[caller].window == at -> s[caller].window = 0
		:: else
		fi;
		at = 0
	:: else
	fi;
	change = IDLE; caller = NOBODY; policy = FAIL
}

/* --- cuts */

#define LEAVING(i) (s[i].lease == RETURNING || s[i].lease == CUTTING)

inline detached(i) { /* a window is out of reach; a cut ends the pin too */
	s[i].window = 0;
	s[i].saidMapped = 0;
	if
	:: s[i].pinned -> s[i].pinned = 0; s[i].reach = 0; s[i].saidPin = 0
	:: else
	fi;
	clean(i)
}

inline detachFailed(i) {
	s[i].lease = FAILED;
	if
	:: change == BREAKING && OTHERS(i) -> abandoned = 1
	:: else
	fi
}

/* --- lives */

inline die(i) {
	s[i].dead = 1;
	if
	:: CAN_TIME_OUT(i) -> s[i].lease = CUTTING
	:: else
	fi
}

inline closeContext(i) {
	s[i].context = 0;
	if
	:: s[i].pinned -> dropPin(i)
	:: else
	fi
}

#define CAN_REOPEN(i) (s[i].dead && !HAS(i) && !s[i].orphan)
inline reopen(i) { s[i].dead = 0; s[i].context = 1 }

/* After a crash only what is durable is known. What can be touched stays so. */
inline forget(i) {
	if
	:: s[i].orphan != 0 && own[s[i].orphan - 1] != ORPHAN -> s[i].orphan = 0
	:: else
	fi;
	clean(i);
	s[i].pinned = 0;
	s[i].context = 1;
	if
#ifndef BUG_RESTART_FORGETS
	:: s[i].saidMapped || (s[i].saidPin && !s[i].orphan) -> s[i].lease = UNCLAIMED
#endif
	:: else
	fi
}

inline undo(b) {
	if
	:: own[b] == FREEING -> own[b] = FILE; at = b + 1
	:: else
	fi
}

inline crash() {
	change = IDLE; caller = NOBODY; policy = FAIL; abandoned = 0;
#ifdef BUG_REUSED_BEFORE_DURABLE
	assert(!early);
#endif
	undo(0); undo(1);
	forget(0); forget(1)
}

inline reclaim(i) {
	s[i].lease = LIVE;
	s[i].mapped = s[i].saidMapped;
	s[i].pinned = s[i].saidPin && !s[i].orphan
}

/* --- blocks */

#ifdef BUG_REUSED_BEFORE_DURABLE
bit early;
#define REUSABLE(b) (own[b] == FREE || own[b] == FREEING)
#else
#define REUSABLE(b) (own[b] == FREE)
#endif

inline reuse(b, who) {
	assert(!TOUCHED(b)); /* no reuse under a pin or exposure */
#ifdef BUG_REUSED_BEFORE_DURABLE
	early = early || own[b] == FREEING;
#endif
	own[b] = who;
	if
	:: who == FILE -> at = b + 1
	:: else
	fi
}

#define HELD_BY_ORPHAN(b) (s[0].orphan == b + 1 || s[1].orphan == b + 1)
#define SETTLED (own[0] != FREEING && own[1] != FREEING)

#ifdef REPLAY
#include "replay.inc"
#else
#include "world.inc"
#endif

init {
	atomic {
		own[0] = FILE;
		s[0].context = 1;
		s[1].context = 1;
		start()
	}
}
