/**
 * What qc accepts from files that it did not write. Each limit is far above what real files hold and low enough that a hostile file
 * cannot exhaust the machine.
 */
export const LIMITS = {
  /** Subgraphs inside subgraphs. Real models stay below 10. */
  graphDepth: 64,
  /** sequence(optional(map(…))): types inside types. */
  typeDepth: 32,
  /** Groups of an unknown field inside each other (protobuf's own default is 100). */
  groupDepth: 100,
  /** Dimensions of one tensor; NumPy stops at 64. */
  rank: 64,
  /** Nodes of a model, subgraphs and functions included. 5 bytes of a file make 0.8 KB of objects; language models have some thousand. */
  nodes: 200_000,
  /** Named values of a model: from 12 bytes of a file, 1 KB of objects. */
  values: 400_000,
  /**
   * Small things kept of a model: metadata entries, value infos, unknown fields, types and tensors of attributes. Two bytes of a file make
   * some 150 bytes of objects. A file of more than `pieces * bytesPerPiece` bytes may have one for each `bytesPerPiece`.
   */
  pieces: 1_000_000,
  bytesPerPiece: 64,
  /** Names of inputs and outputs of nodes: 2 bytes of a file, 60 bytes of objects. */
  operands: 2_000_000,
  /** Functions of a model, and subgraphs: each 1 KB of objects. */
  functions: 20_000,
  subgraphs: 100_000,
  /** Numbers in lists of attributes, 8 bytes each in memory; as with pieces, larger files may have one for each `bytesPerNumber`. */
  numbers: 8_000_000,
  bytesPerNumber: 4,
  /** Strings in attributes of a model, 100 bytes of objects each: tree ensembles and vocabularies have some ten thousand. */
  strings: 1_000_000,
  /** Attributes of one node. */
  attributes: 4096,
  /** Bytes of one model file: what one buffer of Node 20 holds. Bigger models keep their weights in external data. */
  modelBytes: 4 * 1024 ** 3 - 4096,
  /** Bytes of a protobuf message that readers other than this one accept (a signed 32-bit size). */
  protobufBytes: 2 ** 31 - 1,
  /** Saved models beyond this size put their tensors into external data; leaves room below `protobufBytes`. */
  inlineBytes: 1.8 * 1024 ** 3,
  /** A sparse tensor made dense: a small file may claim a huge shape. */
  denseBytes: 1024 ** 3,
  /** Text in front of a `.npy` array: a dict of three keys. */
  npyHeader: 64 * 1024,
  /** Entries of one zip: a folder of samples stays far below. */
  zipEntries: 1_000_000,
  /** Bytes of a zip's directory, about 100 an entry. */
  zipDirectory: 256 * 1024 ** 2,
  /** Deflate cannot pack more tightly than this, so a directory that claims more lies. */
  deflateRatio: 1032,
  /** Compressed arrays up to this size are unpacked into memory once; bigger ones are read forward in pieces. */
  inflateWhole: 1024 ** 3,
} as const;
export type Limit = keyof typeof LIMITS;
