/** Apart from the attack itself: the option table is loaded by every command, and needs the names alone. */
export const ATTACKS = ["fgsm", "pgd"] as const;
export type AttackKind = (typeof ATTACKS)[number];
