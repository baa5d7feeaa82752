/*
 * Lease, pin, break, cut, crash, reclaim and reuse, for one range of one file. README.md says what is modelled and what is not.
 *
 * Each thing that can happen is a guard (CAN_...) and an inline that does it. The processes at the end choose freely among what can
 * happen; with -DREPLAY one process does what a run of layout.Machine did, and compares.
 */

#define S 2 /* sessions */
#ifdef REPLAY
#define D 3 /* blocks of the device */
#else
#define D 2
#endif
#define NOBODY 2 /* the caller of a change that is no session */

#ifndef ACQUIRES
#define ACQUIRES 3
#endif
#ifndef CHANGES
#define CHANGES 2
#endif

/* What a session has of the range. FENCING: its window is detached, its pin reaches the block by another way, which is being cut. */
#define NONE 0
#define LIVE 1
#define RETURNING 2
#define CUTTING 3
#define FAILED 4
#define FENCING 5

/* How far the change is. */
#define IDLE 0
#define HELD 1
#define BREAKING 2
#define APPLYING 3
#define DEFERRING 4

/* on_hold */
#define FAIL 0
#define WAIT 1
#define REVOKE 2
#define DEFER 3

/* How the contexts of a session reach blocks: by its window only, or by other ways, too. */
#define FAR(i) (i == 1)

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
	bit away;                /* dead to a server that was started anew, but its process lives */
	byte orphan;             /* the block + 1 that its pin holds after the file gave it up */
	bit saidMapped, saidPin; /* durable: what a server that has crashed had exposed */
	byte window, reach;      /* the block + 1 that can be touched, whatever the server thinks: by a window, by a pin */
};

Session s[S];
byte change = IDLE, caller = NOBODY, policy = FAIL;
bit abandoned;
byte freed;   /* the block + 1 that is FREEING */
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
#define FIRM(i) (s[i].unbreakable && s[i].lease == LIVE)
#define OTHERS_HAVE ((OTHERS(0) && HAS(0)) || (OTHERS(1) && HAS(1)))
#define OTHERS_FIRM ((OTHERS(0) && FIRM(0)) || (OTHERS(1) && FIRM(1)))
#define OTHERS_PIN ((OTHERS(0) && s[0].pinned) || (OTHERS(1) && s[1].pinned))
#define OWN_PINS (caller != NOBODY && s[caller].pinned)
#define TOUCHED(b) (s[0].window == b + 1 || s[0].reach == b + 1 || s[1].window == b + 1 || s[1].reach == b + 1)
#define BARRIER (change == BREAKING || change == DEFERRING)

#define CAN_ANSWER(i) (!s[i].dead && (!s[i].closed || (policy == REVOKE && s[i].pinned)))
#define CAN_TIME_OUT(i) (change == BREAKING && OTHERS(i) && s[i].lease == LIVE)

/* What a change meets, in its order. */
#ifdef BUG_WAITS_FOR_ITSELF
#define REFUSED_OWN (OWN_PINS && policy != WAIT && (policy != FAIL || !OTHERS_PIN))
#define WAITED_FOR (OTHERS_FIRM || OTHERS_PIN || OWN_PINS)
#else
#define REFUSED_OWN (OWN_PINS && (policy != FAIL || !OTHERS_PIN))
#ifdef BUG_PINS_IGNORED
#define WAITED_FOR OTHERS_FIRM
#else
#define WAITED_FOR (OTHERS_FIRM || OTHERS_PIN)
#endif
#endif
#define IS_REFUSED (REFUSED_OWN || (WAITED_FOR && policy == FAIL))

/* --- leases and pins */

#ifdef BUG_GRANT_UNDER_BARRIER
#define NO_BARRIER(i) true
#else
#define NO_BARRIER(i) (change == IDLE || caller == i)
#endif
#define FITS(i, x) (s[1 - i].lease == NONE || (!x && !s[1 - i].exclusive))
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

inline pin(i) { /* one that reaches by the window only is as durable as that */
	assert(change == IDLE); /* no pin under a barrier */
	s[i].pinned = 1;
	if
	:: FAR(i) -> s[i].saidPin = 1; s[i].reach = at
	:: !FAR(i) -> s[i].saidPin = s[i].saidMapped
	fi
}

#define CAN_MAP(i) (s[i].lease == LIVE && !s[i].closed && !s[i].dead && !s[i].mapped && at != 0)

inline map(i) {
	s[i].mapped = 1;
#ifndef BUG_NOT_DURABLE
	s[i].saidMapped = 1;
	s[i].saidPin = s[i].saidPin || s[i].pinned;
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
	:: s[i].lease == FENCING -> clean(i)
	:: s[i].lease != FENCING && s[i].closed -> release(i)
	:: else
	fi
}

inline dropOrphan(i) { s[i].orphan = 0; s[i].reach = 0; s[i].saidPin = 0 }

inline closeLease(i) {
	s[i].closed = 1;
	if
	:: !s[i].pinned -> release(i)
	:: s[i].pinned && CAN_TIME_OUT(i) && !CAN_ANSWER(i) -> s[i].lease = CUTTING
	:: else
	fi
}

/* --- changes */

inline ask(i) { /* who cannot answer is not asked */
	if
	:: CAN_TIME_OUT(i) && !CAN_ANSWER(i) -> s[i].lease = CUTTING
	:: else
	fi
}

inline timeUp(i) { s[i].lease = CUTTING }

inline endChange() { change = IDLE; caller = NOBODY; policy = FAIL; abandoned = 0 }

inline judge() {
	if
	:: IS_REFUSED -> endChange()
	:: !IS_REFUSED && WAITED_FOR && policy == WAIT -> change = HELD
	:: !IS_REFUSED && OTHERS_PIN && policy == DEFER -> change = DEFERRING
	:: else ->
		if
#ifdef BUG_OTHERS_FORGOTTEN /* not all who are in the way are asked */
		:: (OTHERS(0) && HAS(0)) -> change = BREAKING; ask(0)
		:: !(OTHERS(0) && HAS(0)) -> change = APPLYING
#else
		:: OTHERS_HAVE -> change = BREAKING; ask(0); ask(1)
		:: !OTHERS_HAVE -> change = APPLYING
#endif
		fi
	fi;
	assert(change != BREAKING || policy >= REVOKE || (!OTHERS_FIRM && !OTHERS_PIN)); /* what is held stays, if the policy says so */
	assert(change != APPLYING || (!OTHERS_HAVE && !OTHERS_PIN && !OWN_PINS)) /* nobody has what is taken away */
}

inline judgeAgain() { /* once what it deferred is answered */
	if
	:: abandoned -> endChange()
	:: else -> judge()
	fi
}

/* What can be served is. It follows everything that makes something less. */
inline advance() {
	if
	:: (change == BREAKING && !OTHERS_HAVE && abandoned) -> endChange()
#ifdef BUG_LOST_WAKEUP
	:: change == BREAKING && !OTHERS_HAVE && !abandoned -> judge()
#else
	:: (change == BREAKING && !OTHERS_HAVE && !abandoned) || change == HELD -> judge()
#endif
	:: else
	fi
}

inline submit(c, p) {
	lease0 = s[0].lease; lease1 = s[1].lease; at0 = at;
	caller = c;
	policy = p;
#ifdef BUG_REFUSED_TOO_LATE
	if
	:: OTHERS(0) && s[0].lease == LIVE && !s[0].pinned -> s[0].lease = CUTTING
	:: else
	fi;
#endif
	judge();
	assert(change != IDLE || (lease0 == s[0].lease && lease1 == s[1].lease && at0 == at)); /* a refused change alters nothing */
	lease0 = 0; lease1 = 0; at0 = 0
}

/* The storage was asked to have the file give up what a pin of others keeps. */
inline deferred(i, ok) {
	if
	:: s[i].pinned && OTHERS(i) && ok ->
		s[i].pinned = 0;
		s[i].unbreakable = 0;
		s[i].orphan = at;
		if
		:: !FAR(i) -> s[i].reach = s[i].window /* the memory is its own now, and the file's no more */
		:: else
		fi;
		s[i].window = 0;
		s[i].saidMapped = 0;
		if
		:: s[i].lease == LIVE || s[i].lease == FENCING -> clean(i)
		:: else
		fi
	:: else
	fi;
	if
	:: s[i].pinned && OTHERS(i) && !ok -> endChange()
	:: else -> judgeAgain()
	fi
}

inline abandon() {
	if
	:: change == HELD -> endChange()
	:: BARRIER -> abandoned = 1
	:: else
	fi
}

inline apply() {
	if
	:: at != 0 ->
		if
#ifdef BUG_ORPHANS_FREED
		:: own[at - 1] = FREEING; freed = at
#else
		:: s[0].orphan == at || s[1].orphan == at -> own[at - 1] = ORPHAN
		:: else -> own[at - 1] = FREEING; freed = at
#endif
		fi;
		if /* the caller's own window shows a hole now */
		:: caller != NOBODY && s[caller].window == at -> s[caller].window = 0
		:: else
		fi;
		at = 0
	:: else
	fi;
	endChange()
}

/* --- cuts */

#define LEAVING(i) (s[i].lease == RETURNING || s[i].lease == CUTTING)

inline detached(i) { /* its window is out of reach, and its pin if that reaches by the window only */
	s[i].window = 0;
	s[i].saidMapped = 0;
	if
#ifndef BUG_NOT_FENCED
	:: s[i].pinned && FAR(i) -> s[i].lease = FENCING
	:: else
#else
	:: true
#endif
		->
		s[i].saidPin = s[i].saidPin && !s[i].pinned; /* of an orphan it stays */
		s[i].pinned = 0;
		clean(i)
	fi
}

/* The change is told that it takes longer. */
inline sendAway(i) {
	if
	:: change == BREAKING && OTHERS(i) -> abandoned = 1
	:: else
	fi
}

inline detachFailed(i) { s[i].lease = FAILED; sendAway(i) }

/* --- lives */

inline die(i) {
	s[i].dead = 1;
	s[i].away = 0;
	if
	:: CAN_TIME_OUT(i) -> s[i].lease = CUTTING
	:: else
	fi
}

inline closeContext(i) {
	s[i].context = 0;
	if
	:: s[i].orphan != 0 -> dropOrphan(i)
	:: s[i].pinned -> dropPin(i)
	:: else
	fi
}

#define CAN_REOPEN(i) (s[i].dead && !s[i].away && !s[i].context && !HAS(i) && !s[i].orphan)
inline reopen(i) { s[i].dead = 0; s[i].context = 1 }

/* After a crash only what is durable is known. What can be touched stays so. */
inline forget(i) {
	if
	:: s[i].orphan && own[s[i].orphan - 1] != ORPHAN -> /* the file has it still, and so has the pin */
		s[i].orphan = 0;
		if
		:: !FAR(i) -> s[i].window = s[i].reach; s[i].reach = 0; s[i].saidMapped = (s[i].window != 0)
		:: else
		fi
	:: else
	fi;
	s[i].pinned = s[i].saidPin && !s[i].orphan;
	if
#ifdef BUG_RESTART_FORGETS
	:: true -> s[i].pinned = 0; clean(i)
#else
	:: s[i].saidMapped || s[i].pinned ->
		s[i].lease = LIVE;
		s[i].mapped = s[i].saidMapped;
		s[i].closed = s[i].closed && s[i].pinned
	:: else -> clean(i)
#endif
	fi;
	s[i].context = s[i].pinned;
	s[i].away = (!s[i].dead || s[i].away) && (HAS(i) || s[i].orphan);
	s[i].dead = 1
}

inline crash() {
	if /* what is freed, and not durable yet, is the file's again */
	:: freed != 0 && at == 0 -> assert(own[freed - 1] == FREEING); own[freed - 1] = FILE; at = freed; freed = 0
	:: else
	fi;
	endChange();
	forget(0); forget(1)
}

inline reclaim(i) { s[i].dead = 0; s[i].away = 0 }

/* --- blocks */

#ifdef BUG_REUSED_BEFORE_DURABLE
#define REUSABLE(b) (own[b] == FREE || own[b] == FREEING)
#else
#define REUSABLE(b) (own[b] == FREE)
#endif

inline reuse(b, who) {
	assert(!TOUCHED(b)); /* no reuse under a pin or exposure */
	own[b] = who;
	if
	:: who == FILE -> at = b + 1
	:: else
	fi
}

#define HELD_BY_ORPHAN(b) (s[0].orphan == b + 1 || s[1].orphan == b + 1)
inline makeDurable() {
	if
	:: own[freed - 1] == FREEING -> own[freed - 1] = FREE
	:: else /* in a broken variant it is another's by now */
	fi;
	freed = 0
}

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
