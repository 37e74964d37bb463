// What pages have in common: something loaded, something done.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

// Loads when `keys` change. While it loads again, what was there stays.
export function useLoad(load, keys) {
  const [state, setState] = useState({ data: null, problem: null, isLoading: true });
  const turn = useRef(0);
  const reload = useCallback(async () => {
    const mine = (turn.current += 1);
    setState((before) => ({ ...before, isLoading: true }));
    try {
      const data = await load();
      if (turn.current === mine) setState({ data, problem: null, isLoading: false });
    } catch (problem) {
      if (turn.current === mine) setState({ data: null, problem, isLoading: false });
    }
  }, keys);
  useEffect(() => {
    reload();
    return () => {
      turn.current += 1;
    };
  }, [reload]);
  return { ...state, reload };
}

// An action with its state: {run, isBusy, problem}. `run` gives what the action gives, or undefined where it failed.
export function useAction(action) {
  const [state, setState] = useState({ isBusy: false, problem: null });
  const run = async (...values) => {
    setState({ isBusy: true, problem: null });
    try {
      const result = await action(...values);
      setState({ isBusy: false, problem: null });
      return result;
    } catch (problem) {
      setState({ isBusy: false, problem });
      return undefined;
    }
  };
  return { ...state, run, clear: () => setState({ isBusy: false, problem: null }) };
}

export function useDelayed(value, ms) {
  const [delayed, setDelayed] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setDelayed(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return delayed;
}
