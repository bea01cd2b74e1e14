//! What goes wrong: with nodes, with the network, and with what authorities remember; and how a run ends.

use super::books::parts;
use super::marks::Mark;
use super::wire::lock;
use super::world::{Weather, World};
use super::{Broken, Dice};
use crate::kernel::KernelBoot;
use crate::lease::ledger::DebtKey;
use crate::lease::{Round, SlotState, table_entries};
use crate::mapped::{Area, crash};
use crate::store::RateTerms;

impl World {
    /// Kills a process between two things that it does.
    pub(super) fn kill(&mut self, at: usize) {
        let Some(process) = self.machines[at].process.take() else { return };
        self.marks.hit(Mark::Killed);
        crash::killed_after(u64::MAX - 1, move || -> () {
            let _dies_with_it = process;
            crash::kill()
        });
        self.died(at);
    }

    pub(super) fn died(&mut self, at: usize) {
        lock(&self.post).died(at);
        for (key, units) in std::mem::take(&mut self.machines[at].limbo) {
            let book = self.books.book(key);
            book.used -= units;
            book.forfeited += units;
        }
    }

    pub(super) fn fault_of_node(&mut self, at: usize) -> Result<(), String> {
        match self.dice.below(8) {
            0..3 => self.kill(at),
            3 => {
                self.kill(at);
                self.reboot(at);
            }
            4 if self.dice.one_in(2) => {
                self.kill(at);
                self.lose_disk(at);
            }
            5 => {
                self.kill(at);
                self.start(at);
            }
            _ => {
                self.marks.hit(Mark::Stopped);
                let most = if self.dice.one_in(2) { 1_500 } else { 40_000 };
                self.machines[at].stopped_until = self.now + i64::try_from(self.dice.below(most)).unwrap();
            }
        }
        Ok(())
    }

    /// What the table says of units that the ledger was not told of is lost with it.
    fn lose_table(&mut self, at: usize) {
        let machine = &self.machines[at];
        for entry in table_entries(&machine.area, KernelBoot::from_u128(machine.kernel)) {
            let place = usize::from(entry.counter != self.quotas.counters[0]);
            let owed = DebtKey { counter: entry.counter.tag(), second: entry.period.start, lease: entry.lease.tag() };
            let untold = match entry.state {
                SlotState::Asked => 0,
                SlotState::Open => entry.used().saturating_sub(entry.size),
                SlotState::Owed if self.quotas.ledger.knows(&owed) => 0,
                SlotState::Owed => entry.used(),
            };
            self.books.book((place, entry.period.start)).untold += i64::try_from(untold).unwrap();
        }
    }

    fn reboot(&mut self, at: usize) {
        self.marks.hit(Mark::Rebooted);
        self.lose_table(at);
        let often = 1 + self.dice.below(3);
        for name in self.machines[at].area.list().unwrap() {
            self.machines[at].area.open(&name).unwrap().lose_power(|| self.dice.one_in(often));
        }
        if self.broken != Broken::TableTrustedAfterReboot {
            self.machines[at].kernel += 1;
        }
    }

    fn lose_disk(&mut self, at: usize) {
        self.marks.hit(Mark::DiskLost);
        self.lose_table(at);
        self.machines[at].area = Area::memory();
    }

    pub(super) fn fault_of_network(&mut self) -> Result<(), String> {
        let until = |dice: &mut Dice, now: i64| now + i64::try_from(dice.below(6_000)).unwrap();
        match self.dice.below(4) {
            0 => {
                self.marks.hit(Mark::QuotasAway);
                self.quotas.away_until = until(&mut self.dice, self.now);
            }
            1 => {
                self.marks.hit(Mark::RatesAway);
                self.rates.away_until = until(&mut self.dice, self.now);
            }
            _ => {
                // Somebody has waited for long enough; the call may yet arrive.
                let at = self.dice.place(self.machines.len());
                let call = lock(&self.post).call_of(at);
                if let Some(call) = call {
                    self.give_up(call, at)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn fault_of_memory(&mut self) -> Result<(), String> {
        match self.dice.below(8) {
            0 | 1 => self.quotas.back_up(self.now, &self.books),
            2 if self.dice.one_in(2) => {
                self.marks.hit(Mark::Restored);
                // Connections to it end, and with them what was on its way.
                let calls: Vec<(u64, usize)> = lock(&self.post)
                    .letters
                    .extract_if(.., |letter| letter.is_of_quotas())
                    .map(|letter| (letter.call, letter.node))
                    .collect();
                self.quotas.restore(&mut self.books);
                for (call, node) in calls {
                    self.give_up(call, node)?;
                }
            }
            3 => {
                self.marks.hit(Mark::RestartedEmpty);
                self.rates.begin_incarnation(None, self.now);
            }
            4 => {
                self.marks.hit(Mark::FellBack);
                let behind = self.rates.replica.clone();
                self.rates.begin_incarnation(behind, self.now);
            }
            5 => self.rates.replica = self.rates.bucket.clone(),
            _ => self.set_clock(),
        }
        Ok(())
    }

    fn set_clock(&mut self) {
        let forward = self.dice.one_in(2);
        self.marks.hit(if forward { Mark::SetForward } else { Mark::SetBack });
        if self.dice.one_in(2) {
            let by = i64::try_from(self.dice.below(100_000)).unwrap();
            self.quotas.shift += if forward { by } else { -by };
            return;
        }
        let by = i64::try_from(self.dice.below(2_000)).unwrap();
        self.rates.shift += if forward { by } else { -by };
        if forward {
            self.rates.set_forward_at = self.now;
            let burst = parts(&RateTerms { units: self.rates.terms.burst, seconds: 1, burst: 1 }, 1_000);
            self.extra += parts(&self.rates.terms, by).min(burst);
        }
    }

    /// Everything is heard of, settled and given back.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.weather = Weather::Calm;
        self.pass_time(50_000);
        (self.quotas.away_until, self.rates.away_until) = (0, 0);
        self.deliver_all()?;
        self.give_back_all()?;
        self.quotas.all_is_back(&self.books)?;
        (0..self.machines.len()).for_each(|at| self.kill(at));
        self.give_back_all()?;
        self.check()?;
        self.quotas.finish(&self.books)
    }

    fn give_back_all(&mut self) -> Result<(), String> {
        // Who finds out now that another life came after it is started anew, and gives back what that has left.
        for round in [Round::Tick, Round::Drain, Round::Tick, Round::Drain, Round::Tick, Round::Drain] {
            for at in 0..self.machines.len() {
                if self.machines[at].process.as_ref().is_some_and(|process| process.superseded) {
                    self.kill(at);
                }
                self.give_up_calls(at)?;
                self.on(at, |world, process| {
                    process.stop_waiting(world);
                    while !process.refused.is_empty() {
                        process.finish_refused(world);
                    }
                    while !process.flights.is_empty() {
                        process.settle(world)?;
                    }
                    process.ask(world, round);
                    Ok(())
                })?;
                self.deliver_all()?;
            }
        }
        for (at, machine) in self.machines.iter().enumerate() {
            let serves = machine.process.as_ref().is_some_and(|process| process.serves() && !process.superseded);
            let left = table_entries(&machine.area, KernelBoot::from_u128(machine.kernel));
            if !serves || !left.is_empty() {
                return Err(format!("node {at} serves: {serves}; its table still has {left:?}"));
            }
        }
        Ok(())
    }

    /// What gets no answer any more is not waited for.
    fn give_up_calls(&mut self, at: usize) -> Result<(), String> {
        loop {
            let call = lock(&self.post).call_of(at);
            match call {
                Some(call) => self.give_up(call, at)?,
                None => return Ok(()),
            }
        }
    }
}
